"""/openapi.json says what errors look like: OpenAI's error object for each, never FastAPI's own."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What was wrong, what is wanted."},
                "type": {"type": "string"},
                "param": {
                    "anyOf": [{"type": "string"}, {"type": "null"}],
                    "description": "The field of the request that it is about.",
                },
                "code": {"type": "string", "description": "A word for programs."},
            },
        }
    },
}


def describe_errors(app: FastAPI) -> None:
    """Give every operation the error object as its answer to 4XX and 5XX, in place of the 422 that
    FastAPI would give."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _rewrite(generate())
        return app.openapi_schema

    app.openapi = openapi


def _rewrite(schema: dict[str, Any]) -> None:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    answer = {
        "description": "Refused or failed",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= {"4XX": answer, "5XX": answer}
