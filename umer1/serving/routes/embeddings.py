"""POST /v1/embeddings: as OpenAI's, with vLLM's messages, and vectors of both modes."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from umer1.serving.errors import ApiError, model_not_found
from umer1.serving.items import read_item, text_of_tokens
from umer1.serving.routes.schemas import EmbeddingsRequest
from umer1.serving.runner import Computed, ItemSource, Runner, sampling_of
from umer1.serving.settings import EmbedOptions, ServerSettings

router = APIRouter()


@router.post("/v1/embeddings", response_class=Response)
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """Vectors of every input, in order."""
    state = request.app.state
    runner: Runner = state.runner
    settings: ServerSettings = state.settings
    check_model(body.model, settings)
    width = checked_dimensions(body.dimensions, runner)
    sources = _sources(body, state)
    options = [options_of(body, settings, number) for number in range(len(sources))]
    render = partial(_content, body=body, mode=options[0].mode, width=width, settings=settings)
    content = await runner.embed_all(sources, options, render)
    return Response(content, media_type="application/json")


def check_model(name: str | None, settings: ServerSettings) -> None:
    """ApiError 404 for a model that is not the one served; None is the one served."""
    if name is not None and name != settings.model_name:
        raise model_not_found(name, settings.model_name)


def checked_dimensions(wanted: int | None, runner: Runner) -> int | None:
    """ApiError 400 for a size that the checkpoint was not trained for: its first numbers alone
    would be another, worse embedding."""
    trained = runner.embedder.model.config.matryoshka_dimensions
    if wanted is None or wanted in trained:
        return wanted
    sizes = f"it was trained for {', '.join(map(str, trained))}" if trained else "it records none"
    raise ApiError(
        400,
        f"dimensions: got {wanted}; the model gives {runner.embedder.dimension} numbers, fewer "
        f"only in sizes that its checkpoint records as trained ({sizes})",
        param="dimensions",
        code="dimensions_not_trained",
    )


def encode_vector(vector: np.ndarray, width: int | None, encoding: str) -> list[float] | str:
    """float32 [d] as JSON numbers, which give the same float32 back, or as base64 of its bytes
    (little endian). With `width`, its first numbers, normalised again."""
    if width is not None and width < len(vector):
        vector = vector[:width] / max(np.linalg.norm(vector[:width]), np.float32(1e-12))
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _sources(body: EmbeddingsRequest, state: Any) -> list[ItemSource]:
    """Everything is checked before anything is computed; media and tokens wait for their turn."""
    settings: ServerSettings = state.settings
    given = body.messages if body.input is None else body.input
    if len(given) > settings.max_items:
        raise ApiError(
            400,
            f"{len(given)} inputs, wants at most {settings.max_items} in one request",
            param="messages" if body.input is None else "input",
            code="too_many_items",
        )
    if body.messages is not None:
        one = len(given) == 1
        items = [
            read_item(each, "messages" if one else f"messages[{place}]", settings)
            for place, each in enumerate(given)
        ]
        media = state.gate.request()
        return [partial(media.open_item, item) for item in items]
    return [
        read_item(each, f"input[{place}]", settings)
        if isinstance(each, str)
        else partial(_from_tokens, each, f"input[{place}]", state)
        for place, each in enumerate(given)
    ]


async def _from_tokens(ids: list[int], where: str, state: Any):
    if len(ids) > state.settings.max_text_characters:
        message = f"{where}: {len(ids)} tokens, wants at most {state.settings.max_text_characters}"
        raise ApiError(400, message, param="input", code="text_too_long")
    runner: Runner = state.runner
    text = await runner.in_worker(text_of_tokens, ids, where, runner.embedder.processor)
    return read_item(text, where, state.settings)


def options_of(body: Any, settings: ServerSettings, number: int) -> EmbedOptions:
    """Of an embeddings or chat request; `number` is the place of its input. ApiError 400."""
    longest = settings.max_tokens
    if body.max_tokens is not None and body.max_tokens > longest:
        raise ApiError(
            400,
            f"max_tokens: got {body.max_tokens}, wants at most {longest}",
            param="max_tokens",
            code="max_tokens_too_large",
        )
    try:
        options = EmbedOptions(
            mode=body.mode or settings.mode,
            n=body.n,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=body.seed,
            number=number,
            max_new_tokens=body.max_tokens or min(512, longest),
            max_think_tokens=body.max_think_tokens,
            readout=body.readout,
        )
        sampling_of(options)
    except ValueError as error:
        raise ApiError(400, str(error), code="bad_request") from None
    return options


def _content(
    computed: list[Computed],
    body: EmbeddingsRequest,
    mode: str,
    width: int | None,
    settings: ServerSettings,
) -> bytes:
    """Of many vectors in a worker thread: they are much JSON."""
    encode = partial(encode_vector, width=width, encoding=body.encoding_format)
    data, written = [], 0
    for item, each in enumerate(computed):
        found = each.embeddings
        disc = None if found.disc is None else encode(found.disc[0])
        if mode == "disc":
            data.append({"embedding": disc})
            continue
        for sample in range(body.n):
            # one sample comes bare, several in a list
            pick = _sample if body.n > 1 else _only
            entry = {"embedding": encode(pick(found.gen, sample))}
            entry["finish"] = pick(found.finish, sample)
            if disc is not None:
                entry["disc"] = disc
            if body.return_reasoning:
                entry["reasoning"] = pick(found.reasoning, sample)
                entry["summary"] = pick(found.summary, sample)
            if body.n > 1:
                entry |= {"item": item, "sample": sample}
            written += pick(found.tokens, sample)
            data.append(entry)
    data = [{"object": "embedding", "index": index, **each} for index, each in enumerate(data)]
    read = sum(each.prompt_tokens for each in computed)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    answer = {"object": "list", "data": data, "model": settings.model_name, "usage": usage}
    return json.dumps(answer, allow_nan=False).encode()


def _only(values: Any, _: int) -> Any:
    return values[0]


def _sample(values: Any, sample: int) -> Any:
    return values[0][sample]
