"""POST /v1/chat/completions: the reasoning as it is written, and the vectors when it is done.

Chunks are OpenAI's. The one with the `finish_reason` has the vectors as a field of its own:

    "embedding": {"gen": […], "disc": […] or null, "reasoning": "…", "summary": "…", "finish": "gen_emb"}

The text is the model's own, `<think>`, `<answer>` and `<gen_emb>` included; only the token that
ends the turn is left out.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from umer1.embeddings import Embeddings
from umer1.serving.errors import ApiError
from umer1.serving.items import read_item
from umer1.serving.routes.chat_schema import ChatRequest
from umer1.serving.routes.embeddings import (
    check_model,
    checked_dimensions,
    encode_vector,
    options_of,
)
from umer1.serving.routes.text_stream import TextStream
from umer1.serving.runner import Runner, Started

log = logging.getLogger("umer1")
router = APIRouter()
FINISH = {"gen_emb": "stop", "eos": "stop", "length": "length"}
# seconds between chunks of text at least: no eye sees more, and many streams share one event loop
PACE = 0.05
# a proxy that collects the stream would show the reasoning only when it is over
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@router.post("/v1/chat/completions", response_class=Response)
async def chat(request: Request, body: ChatRequest) -> Response:
    """One conversation: what the model writes about it, and its embeddings."""
    state = request.app.state
    check_model(body.model, state.settings)
    checked_dimensions(body.dimensions, state.runner)
    item = read_item(body.messages, "messages", state.settings)
    options = options_of(body, state.settings, 0)
    events = _events(state.runner, partial(state.gate.request().open_item, item), options)
    reply = _Reply(state.settings.model_name, body)
    if not body.stream:
        async with aclosing(events):
            return Response(await _whole(events, reply), media_type="application/json")
    # what is wrong with the item is known before the first chunk: it can still be a status
    reply.prompt_tokens = (await anext(events)).prompt_tokens
    return StreamingResponse(
        _chunks(events, reply), headers=_HEADERS, media_type="text/event-stream"
    )


async def _events(runner: Runner, source: Any, options: Any) -> AsyncGenerator:
    """`Started`, pieces of text, the embeddings."""
    processor = runner.embedder.processor
    text = TextStream(processor.decode)
    async with aclosing(runner.stream(source, options)) as events:
        async for event in events:
            if isinstance(event, Started):
                yield event
            elif isinstance(event, Embeddings):
                if rest := text.end():
                    yield rest
                yield event
            elif event.token != processor.eos_id and (piece := text.push(event.token)):
                yield piece


class _Reply:
    """What the answer's objects have in common."""

    def __init__(self, model: str, body: ChatRequest):
        self.body, self.prompt_tokens = body, 0
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, embeddings: Embeddings) -> dict:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": FINISH[embeddings.finish[0]],
            "logprobs": None,
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self.usage(embeddings),
            "embedding": self.vectors(embeddings),
        }

    def chunk(self, delta: dict | None, finish: str | None = None, **more: Any) -> str:
        """One event of the stream. Without a delta it has no choice."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        choices = [] if delta is None else [choice]
        content = {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}
        return _event(content)

    def vectors(self, embeddings: Embeddings) -> dict:
        """The field `embedding`."""
        body, disc = self.body, embeddings.disc
        encode = partial(encode_vector, width=body.dimensions, encoding=body.encoding_format)
        return {
            "gen": encode(embeddings.gen[0]),
            "disc": None if disc is None else encode(disc[0]),
            "reasoning": embeddings.reasoning[0],
            "summary": embeddings.summary[0],
            "finish": embeddings.finish[0],
        }

    def usage(self, embeddings: Embeddings) -> dict[str, int]:
        read, written = self.prompt_tokens, embeddings.tokens[0]
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }


async def _whole(events: AsyncGenerator, reply: _Reply) -> bytes:
    text = []
    async for event in events:
        if isinstance(event, Started):
            reply.prompt_tokens = event.prompt_tokens
        elif isinstance(event, str):
            text.append(event)
        else:
            answer = reply.whole("".join(text), event)
    return json.dumps(answer, allow_nan=False).encode()


async def _chunks(events: AsyncGenerator, reply: _Reply) -> AsyncGenerator[str]:
    """Server-sent events. An error in the middle is an event too: the status has been sent."""
    options = reply.body.stream_options
    try:
        async with aclosing(events):
            yield reply.chunk({"role": "assistant", "content": ""})
            waiting, sent = "", 0.0
            async for event in events:
                if isinstance(event, str):
                    waiting += event
                    if time.monotonic() < sent + PACE:
                        continue
                if waiting:
                    yield reply.chunk({"content": waiting})
                    waiting, sent = "", time.monotonic()
                if isinstance(event, str):
                    continue
                finish, vectors = FINISH[event.finish[0]], reply.vectors(event)
                yield reply.chunk({}, finish, embedding=vectors)
                if options is not None and options.include_usage:
                    yield reply.chunk(None, usage=reply.usage(event))
                yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body)
    except Exception:
        log.exception("chat: failed in the middle of a stream")
        failed = ApiError(500, "the server failed; its log says more", code="internal")
        yield _event(failed.body)


def _event(content: dict) -> str:
    return f"data: {json.dumps(content, allow_nan=False)}\n\n"
