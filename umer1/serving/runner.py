"""Items in, embeddings out, from asyncio: many requests share one engine.

    runner = Runner(embedder, settings)
    runner.start()
    embeddings = await runner.embed({"text": "a red bicycle"}, EmbedOptions(mode="both"))
    await runner.close()

An item goes through three places: it waits in the event loop, a worker thread opens its media and
tokenises it, the engine computes, in a thread or a process of its own. Only as many items as the engine has rows are past the
first place without running: the others hold no pixels. Cancelling the task that asked cancels the
item wherever it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from umer1.embedder import Embedder
from umer1.embeddings import Embeddings
from umer1.engine import Generated, NativeEngine, Sampling
from umer1.prompts import parse_item
from umer1.serving.engine_loop import Ticket
from umer1.serving.engine_process import EngineProcess
from umer1.serving.engine_thread import EngineThread
from umer1.serving.errors import ApiError, out_of_time, shutting_down
from umer1.serving.places import Places
from umer1.serving.settings import EmbedOptions, ServerSettings

FEW = 4  # rows

# an item, or what makes one when its turn has come (its media are opened no earlier)
ItemSource = Any | Callable[[], Awaitable[Any]]


class Started(NamedTuple):
    """The prompt is read, the engine has it: first of a stream."""

    prompt_tokens: int


class TokenPiece(NamedTuple):
    """A token that a sample has written."""

    sample: int
    token: int


@dataclass(frozen=True, slots=True)
class Computed:
    """embeddings: of one item, as `Embedder.encode` gives them. seconds: from its arrival."""

    embeddings: Embeddings
    prompt_tokens: int
    seconds: float


class _Result(NamedTuple):
    """One item as it comes from the engine."""

    generated: Generated
    prompt_tokens: int
    seconds: float


class Runner:
    """Attributes: watchers, called with (options, Computed) for every item computed."""

    def __init__(
        self,
        embedder: Embedder,
        settings: ServerSettings,
        host: EngineThread | EngineProcess | None = None,
    ):
        """host: where the engine runs; default: the embedder's own, in a thread."""
        if host is None:
            if not isinstance(embedder.engine, NativeEngine):
                raise TypeError(
                    f"embedder: its engine is a {type(embedder.engine).__name__}, the server wants "
                    "a NativeEngine: requests join it between steps"
                )
            host = EngineThread(embedder.engine)
        self.embedder, self.settings, self.host = embedder, settings, host
        self.watchers: list[Callable[[EmbedOptions, Computed], None]] = []
        self._places = Places(host.slots + settings.max_waiting)
        self._closed = False
        self._workers = ThreadPoolExecutor(settings.prepare_threads, "umer1-prepare")
        self._ahead = asyncio.Semaphore(host.slots)
        self._answers: set[asyncio.Future] = set()  # of what the engine computes
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call it in the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self.host.start(self._loop)

    async def close(self) -> None:
        """Refuse what comes, wait at most `drain_seconds` for what runs, end the engine and the threads."""
        await self.drain()
        await asyncio.to_thread(self.host.stop)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def drain(self) -> None:
        """Refuse what comes and return once nothing runs. What still does after `drain_seconds`
        gets 503."""
        self.stop_accepting()
        if await self._places.empty(self.settings.drain_seconds):
            return
        self._closed = True
        for answer in self._answers:
            _settle(answer, shutting_down())
        for _ in range(self._places.rows):  # whoever has not got to the engine: see _check_open
            self._ahead.release()

    def stop_accepting(self) -> None:
        """Refuse what comes with 503; what is there goes on."""
        self._places.closing = True

    @property
    def alive(self) -> bool:
        """Whether the engine's thread or process runs."""
        return self.host.alive

    @property
    def draining(self) -> bool:
        """Whether nothing new is accepted any more."""
        return self._places.closing

    @property
    def ready(self) -> bool:
        return self.alive and not self.draining

    def describe(self) -> dict[str, Any]:
        """Sizes and what is in them now; see `EngineLoop.describe` for pages."""
        found, rows = self.host.describe(), self._places.rows
        return found | {
            "ready": self.ready,
            "slots": self.host.slots,
            "rows": rows,
            "waiting": max(0, rows - found["running"]),
            "max_waiting": self.settings.max_waiting,
            "tasks": len(asyncio.all_tasks(self._loop)) if self._loop else 0,
        }

    async def embed(self, item: ItemSource, options: EmbedOptions) -> Embeddings:
        """One item. ApiError if it cannot be computed."""
        return (await self.embed_all([item], [options]))[0].embeddings

    async def embed_all(
        self,
        items: list[ItemSource],
        options: list[EmbedOptions],
        render: Callable[[list[Computed]], Any] = list,
    ) -> Any:
        """Several items of one request: all get places in the queue, or none. The first that fails
        stops the others. Returns what `render` makes of them, beside the event loop if they are
        many."""
        with self._places.take(sum(each.rows for each in options)):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._compute(*pair)) for pair in zip(items, options)
                    ]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            return await self._finish([task.result() for task in tasks], options, render)

    async def stream(
        self, item: ItemSource, options: EmbedOptions
    ) -> AsyncIterator[Started | TokenPiece | Embeddings]:
        """One item as it is computed: `Started`, a `TokenPiece` for every token, the embeddings.
        ApiError 504 after `request_seconds`. Close it (`aclosing`) to cancel."""
        events: asyncio.Queue = asyncio.Queue()
        seconds = self.settings.request_seconds
        with self._places.take(options.rows):
            task = asyncio.create_task(self._compute(item, options, events.put_nowait))
            task.add_done_callback(lambda _: events.put_nowait(None))
            # one timer, not one for every token
            late = asyncio.get_running_loop().call_later(
                seconds, events.put_nowait, out_of_time(seconds)
            )
            try:
                while (event := await events.get()) is not None:
                    if isinstance(event, ApiError):
                        raise event
                    yield event
                (computed,) = await self._finish([task.result()], [options], list)
                yield computed.embeddings
            finally:
                late.cancel()
                task.cancel()

    async def in_worker(self, function: Callable, *arguments) -> Any:
        """`function(*arguments)` in a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, function, *arguments)

    async def _compute(
        self,
        source: ItemSource,
        options: EmbedOptions,
        hear: Callable[[Started | TokenPiece], None] | None = None,
    ) -> _Result:
        began = time.monotonic()
        answer: asyncio.Future[Generated] = asyncio.get_running_loop().create_future()
        await self._ahead.acquire()
        wrote = hear and (lambda sample, token: hear(TokenPiece(sample, token)))
        ticket = Ticket(self._ahead.release, partial(_settle, answer), wrote)
        try:
            self._check_open()
            item = await source() if callable(source) else source
            await self.in_worker(self._prepare, item, options, ticket)
            self._check_open()
        except BaseException:
            self._ahead.release()
            raise
        if hear is not None:
            hear(Started(ticket.tokens))
        self.host.join_engine(ticket)
        self._answers.add(answer)
        try:
            result = await answer
        except BaseException:
            self.host.leave(ticket)
            raise
        finally:
            self._answers.discard(answer)
        self._places.finished(options.rows)
        return _Result(result, ticket.tokens, time.monotonic() - began)

    async def _finish(
        self,
        results: list[_Result],
        options: list[EmbedOptions],
        render: Callable[[list[Computed]], Any],
    ) -> Any:
        """Texts of tokens, counts, and whatever the answer is made of."""

        def finish() -> Any:
            computed = [
                Computed(
                    self.embedder.collect([each.generated], how.mode, max(1, how.samples)),
                    each.prompt_tokens,
                    each.seconds,
                )
                for each, how in zip(results, options)
            ]
            for how, each in zip(options, computed):
                for watcher in self.watchers:
                    watcher(how, each)
            return render(computed)

        # a few take less than the way to a worker and back
        few = sum(how.rows for how in options) <= FEW
        return finish() if few else await self.in_worker(finish)

    def _prepare(self, item: Any, options: EmbedOptions, ticket: Ticket) -> None:
        """In a worker thread: everything that is done to an item before the engine steps."""
        number = options.number
        try:
            item = parse_item(item, where=f"item {number}")
            prompt = self.embedder.prompt(
                item, options.mode, number=number, readout=options.readout
            )
            tokens, most = len(prompt.sequence), self.settings.max_prompt_tokens
            if tokens > most:
                raise ValueError(f"item {number}: {tokens} prompt tokens, wants at most {most}")
            self.host.prepare(ticket, prompt, sampling_of(options), options.samples, number)
        except ValueError as error:
            raise ApiError(400, str(error), param="input", code="bad_input") from None

    def _check_open(self) -> None:
        if self._closed:
            raise shutting_down()


def sampling_of(options: EmbedOptions) -> Sampling:
    """ValueError names the option."""
    return Sampling(
        options.max_new_tokens,
        options.temperature,
        options.top_p,
        options.top_k,
        options.seed,
        max_think_tokens=options.max_think_tokens,
    )


def _settle(answer: asyncio.Future, result: Generated | Exception) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
