"""GET /v1/models, /health, /health/ready, /metrics."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from umer1.serving.errors import ApiError, model_not_found

router = APIRouter()
_STARTED = int(time.time())


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model that is served."""
    return {"object": "list", "data": [_model(request)]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    served = request.app.state.settings.model_name
    if name != served:
        raise model_not_found(name, served)
    return _model(request)


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 while the process can work, 503 once it cannot: restart it."""
    alive = request.app.state.runner.alive
    state = {"status": "ok" if alive else "failed"}
    return JSONResponse(state, 200 if alive else 503)


@router.get("/health/ready")
async def ready(request: Request) -> dict[str, str]:
    """200 while requests are taken, 503 while the server starts or shuts down."""
    if not request.app.state.runner.ready:
        raise ApiError(503, "takes no requests", code="not_ready")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _model(request: Request) -> dict[str, Any]:
    settings, embedder = request.app.state.settings, request.app.state.runner.embedder
    return {
        "id": settings.model_name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "umer1",
        "identity": settings.model_identity,
        "dimension": embedder.dimension,
        "matryoshka_dimensions": list(embedder.model.config.matryoshka_dimensions),
        "modes": ["disc", "gen", "both"],
        "max_tokens": settings.max_tokens,
    }
