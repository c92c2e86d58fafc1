"""The server, put together.

app = create_app(Embedder.load("tiny"), ServerSettings(model_name="tiny"))
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from umer1 import __version__
from umer1.embedder import Embedder
from umer1.serving.body_limits import BodyLimits
from umer1.serving.door import Door
from umer1.serving.engine_process import EngineProcess
from umer1.serving.errors import ApiError
from umer1.serving.fresh_indexes import keep_fresh
from umer1.serving.media.gate import MediaGate
from umer1.serving.metrics import Metrics
from umer1.serving.openapi import describe_errors
from umer1.serving.process_memory import return_freed_memory
from umer1.serving.routes import chat, embeddings, page, search, status
from umer1.serving.routes.thumbnails import Thumbnails
from umer1.serving.runner import Runner
from umer1.serving.settings import ServerSettings
from umer1.serving.watch import Watch

log = logging.getLogger("umer1")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    embedder: Embedder,
    settings: ServerSettings | None = None,
    indexes: Mapping[str, Any] | None = None,
    host: EngineProcess | None = None,
) -> FastAPI:
    """The ASGI application; its lifespan starts and ends the engine.

    Args:
        embedder: its engine runs in a thread of this process. With a `host` it may be
            `Embedder.without_weights` of the model that runs there.

    `app.state` has `runner`, `settings`, `indexes` (name -> umer1.retrieval.VectorIndex), `gate`,
    `thumbnails` and `metrics`: routes find them in `request.app.state`.
    """
    settings = settings or ServerSettings()
    search.check_indexes(indexes or {}, settings)
    runner = Runner(embedder, settings, host)
    metrics = Metrics(runner)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        runner.start()
        upkeep = [
            asyncio.create_task(return_freed_memory()),
            asyncio.create_task(keep_fresh(app.state.indexes)),
        ]
        yield
        for task in upkeep:
            task.cancel()
        await runner.close()

    # the interactive pages of FastAPI load scripts from elsewhere; /openapi.json is there
    app = FastAPI(
        title="umer1", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.runner, app.state.settings, app.state.metrics = runner, settings, metrics
    app.state.indexes = dict(indexes or {})
    app.state.thumbnails = Thumbnails()
    app.state.gate = MediaGate(settings, sizes=embedder.processor.limits)
    for route in (embeddings, chat, search, status, page):
        app.include_router(route.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    describe_errors(app)
    # the last added is the outermost: nobody without a key fills memory with a body
    app.add_middleware(BodyLimits, most_bytes=settings.max_body_bytes)
    app.add_middleware(Door, api_keys=settings.api_keys, closing=lambda: runner.draining)
    app.add_middleware(Watch, seconds=settings.request_seconds, answered=metrics.answered)
    return app


def _answer(error: ApiError) -> Response:
    return Response(error.encoded(), error.status, error.headers, "application/json")


async def _api_error(_: Request, error: ApiError) -> Response:
    return _answer(error)


async def _validation_error(_: Request, error: RequestValidationError) -> Response:
    """The first thing that is wrong, and where."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _answer(ApiError(400, f"body: not JSON: {first['ctx']['error']}", code="bad_json"))
    place = [str(part) for part in first["loc"] if part != "body"]
    name = ".".join(place)[:200]
    message = first["msg"].removeprefix("Value error, ")
    message = f"{name}: {message}" if name else message
    return _answer(
        ApiError(400, message[:2000], param=place[0] if place else None, code="bad_request")
    )


async def _http_error(request: Request, error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, "bad_request")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return _answer(ApiError(error.status_code, message, code=code, headers=error.headers))


async def _defect(_: Request, error: Exception) -> Response:
    """Starlette logs it with its traceback afterwards; the client learns no more than this."""
    return _answer(ApiError(500, "the server failed; its log says more", code="internal"))
