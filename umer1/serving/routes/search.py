"""GET /v1/indexes, POST /v1/search, and thumbnails of an index's items."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import Field, model_validator

from umer1.serving.errors import ApiError
from umer1.serving.items import read_item
from umer1.serving.routes.embeddings import check_model
from umer1.serving.routes.schemas import Request
from umer1.serving.routes.thumbnails import kind_of
from umer1.serving.runner import Runner
from umer1.serving.settings import EmbedOptions, ServerSettings

if TYPE_CHECKING:
    from umer1.retrieval import Hit, VectorIndex

router = APIRouter()
THUMBNAIL_HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}

SearchMode = Literal["disc", "gen", "fused"]
Vector = Annotated[list[float], Field(min_length=1)]


class SearchRequest(Request):
    model: str | None = Field(None, description="The served model; may be left out.")
    index: str = Field(description="A name from /v1/indexes.")
    input: str | None = Field(None, min_length=1, description="A text to search with.")
    messages: list[dict[str, Any]] | None = Field(
        None, min_length=1, description="One user turn with text, pictures and clips."
    )
    vector: dict[Literal["disc", "gen"], Vector] | None = Field(
        None, min_length=1, description="Vectors of this model, by mode."
    )
    modes: list[SearchMode] = Field(
        ["gen"], min_length=1, max_length=3, description="One list of results for each."
    )
    k: int = Field(10, ge=1, le=1000, description="Results in each list.")
    max_tokens: int | None = Field(None, ge=1, description="Longest reasoning and summary.")

    @model_validator(mode="after")
    def _one_source(self) -> SearchRequest:
        if sum(each is not None for each in (self.input, self.messages, self.vector)) != 1:
            raise ValueError("wants one of 'input', 'messages' and 'vector'")
        return self


def check_indexes(indexes: Mapping[str, VectorIndex], settings: ServerSettings) -> None:
    """ValueError for an index of another model than the one served, or a name no address holds."""
    for name, index in indexes.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(f"index {name!r}: wants a name of letters, digits, '-', '_' and '.'")
        if settings.model_identity:
            index.check_model(settings.model_identity)


@router.get("/v1/indexes")
async def indexes(request: HttpRequest) -> dict[str, Any]:
    """What can be searched."""
    known: dict[str, VectorIndex] = request.app.state.indexes
    return {
        "object": "list",
        "data": [
            {
                "name": name,
                "items": len(index),
                "modes": list(index.modes),
                "model": index.model,
                "readout": index.manifest.readout,
                "aligned": index.manifest.aligned,
            }
            for name, index in known.items()
        ],
    }


@router.post("/v1/search", response_class=Response)
async def search(request: HttpRequest, body: SearchRequest) -> Response:
    """The nearest items of an index, one list for each mode asked for."""
    state = request.app.state
    index = _index(state, body.index)
    check_model(body.model, state.settings)
    _check_modes(body, index)
    if body.vector is not None:
        queries = {mode: np.array([row], np.float32) for mode, row in body.vector.items()}
        query = {}
    else:
        queries, query = await _embed(state, index, body)
    runner: Runner = state.runner
    # before the search: whatever is written meanwhile, a number is never taken for another's
    data = index.manifest.folder
    results = {}
    for mode in dict.fromkeys(body.modes):
        try:
            hits = await runner.in_worker(partial(index.search, queries, body.k, mode))
        except ValueError as error:
            raise ApiError(400, str(error), param="vector", code="bad_vector") from None
        results[mode] = [_result(body.index, data, hit) for hit in hits[0]]
    answer = {"object": "search.results", "index": body.index, "results": results, **query}
    return Response(json.dumps(answer, allow_nan=False), media_type="application/json")


@router.get("/v1/indexes/{name}/items/{number}/thumbnail", response_class=Response)
async def thumbnail(
    request: HttpRequest, name: str, number: int, data: str | None = None
) -> Response:
    """A JPEG of an item's picture or clip, made anew from its pixels. With `data`, as the addresses
    in results have it, 404 once the items have other numbers."""
    state = request.app.state
    index = _index(state, name)
    if data is not None and data != index.manifest.folder:
        message = f"the items of index {name!r} have been numbered anew: search again"
        raise ApiError(404, message, param="data", code="item_not_found")
    try:
        _, entry = index.item(number)
    except KeyError:
        message = f"index {name!r} has no item number {number}"
        raise ApiError(404, message, param="number", code="item_not_found") from None
    content = await state.thumbnails.of(index.directory, entry, state.runner.in_worker)
    return Response(content, media_type="image/jpeg", headers=THUMBNAIL_HEADERS)


def _index(state: Any, name: str) -> VectorIndex:
    if name not in state.indexes:
        known = ", ".join(state.indexes) or "none"
        raise ApiError(
            404,
            f"no index {name[:80]!r} here; there is: {known}",
            param="index",
            code="index_not_found",
        )
    return state.indexes[name]


def _check_modes(body: SearchRequest, index: VectorIndex) -> None:
    """ApiError 400 before anything is computed."""
    for mode in body.modes:
        needed = ("disc", "gen") if mode == "fused" else (mode,)
        for each in needed:
            if each not in index.modes:
                held = " and ".join(index.modes)
                message = f"modes: {mode!r} wants {each} vectors, index {body.index!r} holds {held}"
                raise ApiError(400, message, param="modes", code="mode_not_indexed")
            if body.vector is not None and each not in body.vector:
                message = f"vector: {each} is missing, which mode {mode!r} wants"
                raise ApiError(400, message, param="vector", code="bad_vector")


async def _embed(state: Any, index: VectorIndex, body: SearchRequest) -> tuple[dict, dict]:
    """Vectors by mode float32 [1, d], and what the model wrote as a field of the answer."""
    settings: ServerSettings = state.settings
    if body.max_tokens is not None and body.max_tokens > settings.max_tokens:
        raise ApiError(
            400,
            f"max_tokens: got {body.max_tokens}, wants at most {settings.max_tokens}",
            param="max_tokens",
            code="max_tokens_too_large",
        )
    source, where = (body.input, "input") if body.messages is None else (body.messages, "messages")
    item = read_item(source, where, settings)
    wanted = {
        each for mode in body.modes for each in (("disc", "gen") if mode == "fused" else (mode,))
    }
    mode = "both" if len(wanted) == 2 else wanted.pop()
    options = EmbedOptions(
        mode=mode,
        max_new_tokens=min(body.max_tokens or 512, settings.max_tokens),
        readout=index.manifest.readout,
    )
    found = await state.runner.embed(partial(state.gate.request().open_item, item), options)
    queries = {
        name: vectors
        for name, vectors in (("disc", found.disc), ("gen", found.gen))
        if vectors is not None
    }
    if found.gen is None:
        return queries, {}
    written = {name: getattr(found, name)[0] for name in ("reasoning", "summary", "finish")}
    return queries, {"query": written}


def _result(name: str, data: str, hit: Hit) -> dict[str, Any]:
    """data: the folder that the item's number counts in."""
    entry, kind = hit.entry, kind_of(hit.entry)
    address = f"/v1/indexes/{name}/items/{hit.number}/thumbnail?data={data}"
    return {
        "id": hit.id,
        "score": hit.score,
        "number": hit.number,
        "text": _text(entry.get("text")),
        "summary": _text(entry.get("summary")),
        "kind": kind,
        "thumbnail": None if kind == "text" else address,
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
