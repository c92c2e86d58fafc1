"""Where output goes: results to stdout, everything else to stderr, and with --json one JSON
document on stdout.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else there.")
]


def print_json(content) -> None:
    """Print `content` as JSON to stdout; numbers that JSON cannot hold become null."""
    sys.stdout.write(json.dumps(_finite(content), ensure_ascii=False, indent=2, allow_nan=False))
    sys.stdout.write("\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def error(text: str) -> None:
    """The one line that says what went wrong, on stderr."""
    note(f"umer1: error: {text}")


@contextlib.contextmanager
def stdout_to_stderr(enabled: bool = True) -> Iterator[None]:
    """While a job runs, whatever it prints goes to stderr."""
    if not enabled:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _finite(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
