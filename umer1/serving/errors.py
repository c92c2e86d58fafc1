"""What the server answers when it refuses or fails: OpenAI's error object, one shape for all.

{"error": {"message": "…", "type": "invalid_request_error", "param": "input", "code": "…"}}
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer other than 200.

    Args:
        message: for the user: what was wrong and what is wanted.
        param: the field of the request that it is about.
        code: a word for programs.
        headers: of the answer, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict:
        kind = _TYPES.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def encoded(self) -> bytes:
        """The body as UTF-8 JSON; what UTF-8 cannot hold is escaped."""
        return json.dumps(self.body).encode()


async def send_error(error: ApiError, send: Callable[[dict], Awaitable[None]]) -> None:
    """Answer from an ASGI middleware, before any response has started."""
    body = error.encoded()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (headers | error.headers).items()
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def shutting_down() -> ApiError:
    return ApiError(
        503,
        "the server is shutting down: ask another one",
        code="shutting_down",
        headers={"Retry-After": "5", "Connection": "close"},
    )


def out_of_time(seconds: float) -> ApiError:
    return ApiError(504, f"not finished within {seconds:g} seconds", code="time_limit")


def model_not_found(name: str, served: str) -> ApiError:
    shown = name if len(name) <= 80 else name[:80] + "…"
    return ApiError(
        404,
        f"model {shown!r} is not served here, {served!r} is",
        param="model",
        code="model_not_found",
    )
