"""An OpenAI-compatible chat endpoint that may fail in every way.

    async with Endpoint("http://localhost:8000/v1", sampling) as endpoint:
        reply = await endpoint.ask(messages)

The official client does the talking; when to ask again is decided here, because its own retries
know neither answers that are no answers nor a pause that everybody has to keep.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from umer1.data.annotation.reply import JunkError, Reply, read_reply
from umer1.data.annotation.waiting import Gate, Retries, retry_after

MODEL = "zai-org/GLM-4.1V-9B-Thinking"
URL = "http://localhost:8000/v1"
# the server says that no question will fare better
_HOPELESS = {401: "the key is not accepted", 403: "not allowed", 404: "no such model or path"}
_PASSING = {408, 409, 425, 429}


class EndpointError(ConnectionError):
    """The run cannot go on: what is answered is kept."""


class NoAnswer(Exception):
    """One question got no answer. `kind` is for counting, `reason` for people."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Sampling:
    """What every request holds besides its messages; None leaves it to the server, which knows the
    model's own settings. `extra` goes into the body as it is."""

    model: str = MODEL
    max_tokens: int = 9216
    temperature: float | None = None
    top_p: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        given = {"temperature": self.temperature, "top_p": self.top_p}
        told = {name: value for name, value in given.items() if value is not None}
        return {"model": self.model, "max_tokens": self.max_tokens, **told}


class Endpoint:
    """Args:
    timeout: seconds for one whole answer, however it drips in.
    api_key: default: the environment's OPENAI_API_KEY; local servers want none.
    on_trouble: told about every failed attempt.
    """

    def __init__(
        self,
        url: str,
        sampling: Sampling,
        *,
        timeout: float = 600.0,
        retries: Retries | None = None,
        api_key: str | None = None,
        on_trouble: Callable[[str], None] = lambda reason: None,
    ):
        self.url, self.sampling = url, sampling
        self.timeout, self.retries = timeout, retries or Retries()
        self.failures: Counter[str] = Counter()  # kind -> failed attempts, those repeated included
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._gate, self._on_trouble = Gate(), on_trouble

    async def __aenter__(self) -> Endpoint:
        try:
            import openai
        except ImportError:
            raise ModuleNotFoundError(
                "annotation needs the openai package: pip install umer1[annotate]"
            ) from None
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=self.url, api_key=self._key, max_retries=0, timeout=self.timeout
        )
        return self

    async def __aexit__(self, *error) -> None:
        await self._client.close()

    async def ask(self, messages: list[dict[str, Any]]) -> Reply:
        """The answer. Raises NoAnswer after the last attempt or when asking again is of no use,
        EndpointError when no other question would fare better."""
        failures, held = 0, 0.0
        while True:
            await self._gate.passed()
            try:
                return await self._once(messages)
            except _Passing as passing:
                trouble = passing
            self.failures[trouble.kind] += 1
            self._on_trouble(str(trouble))
            if trouble.retry_after is not None:
                held += self._hold(trouble)
                if held > self.retries.longest_hold:
                    raise NoAnswer(trouble.kind, f"{trouble} (put off for {held:.0f} s)")
                continue
            failures += 1
            if failures >= self.retries.attempts:
                raise NoAnswer(trouble.kind, f"{trouble} ({failures} attempts)")
            await asyncio.sleep(self.retries.backoff(failures))

    def _hold(self, trouble: _Passing) -> float:
        """Everybody keeps the pause that the server asked for; its seconds."""
        # a server that says 0 again and again would be asked without end
        pause = max(trouble.retry_after, self.retries.first_wait)
        if pause > self.retries.longest_hold:
            raise EndpointError(
                f"{self.url}: wants a pause of {pause:.0f} s ({trouble}); start again after it"
            )
        self._gate.hold(pause)
        return pause

    async def _once(self, messages: list[dict[str, Any]]) -> Reply:
        openai = self._openai
        create = self._client.chat.completions.with_raw_response.create
        try:
            # the client's own limit is on silence; one on the whole stops a server that drips
            async with asyncio.timeout(self.timeout):
                raw = await create(
                    messages=messages,
                    extra_body=self.sampling.extra or None,
                    **self.sampling.body(),
                )
            return read_reply(raw.text)
        except (openai.APITimeoutError, TimeoutError):
            raise _Passing("timeout", f"no whole answer in {self.timeout:g} s") from None
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error)
            raise _Passing("connection", f"connection failed: {reason}") from None
        except openai.APIStatusError as error:
            raise self._of_status(error) from None
        except JunkError as error:
            raise _Passing("junk", str(error)) from None
        except UnicodeError as error:
            raise NoAnswer("record", f"text is not valid Unicode: {error}") from None

    def _of_status(self, error: Any) -> Exception:
        status, told = error.status_code, _told(error)
        reason = f"HTTP {status}: {told}"
        if status in _HOPELESS or "insufficient_quota" in told:
            why = _HOPELESS.get(status, "the account is used up")
            return EndpointError(f"{self.url}: {why} (model {self.sampling.model}): {reason}")
        if status in _PASSING or status >= 500:
            asked = retry_after(error.response.headers)
            return _Passing(f"HTTP {status}", reason, asked)
        return NoAnswer(f"HTTP {status}", reason)


class _Passing(Exception):
    """May be over when asked again."""

    def __init__(self, kind: str, reason: str, asked: float | None = None):
        super().__init__(reason)
        self.kind, self.retry_after = kind, asked


def _told(error: Any) -> str:
    """The server's own words, shortened."""
    body = error.body
    if isinstance(body, dict):
        body = f"{body.get('code') or ''} {body.get('message') or json.dumps(body)}".strip()
    text = " ".join(str(body or error.message).split())
    return text[:200]
