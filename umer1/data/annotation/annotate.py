"""Reasoning and summaries for pairs, from a thinking model behind an OpenAI-compatible endpoint.

    store = open_set("rl.json", "rl", root="MMEB-train")
    statistics = annotate(store, "annotated", Options(url="http://gpu1:8000/v1"), root="MMEB-train")

The teacher sees one side at a time, never the other. A run that was stopped, killed or cut off goes on
with the same call; what was answered is not asked again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from umer1.data.annotation.endpoint import URL, Endpoint, EndpointError, NoAnswer, Sampling
from umer1.data.annotation.filters import Filters, Kept, judge, tokenizer_counter
from umer1.data.annotation.journal import AnswerJournal
from umer1.data.annotation.messages import SentMedia, messages
from umer1.data.annotation.plan import Plan, make_plan
from umer1.data.annotation.prompts import Prompts
from umer1.data.annotation.results import write_results
from umer1.data.annotation.sides import SIDES, question
from umer1.data.annotation.waiting import Retries
from umer1.data.store import PairStore
from umer1.progress import Bar, progress_bar

# so many questions in a row without an answer, beyond those on their way, end the run
_IN_VAIN = 16


@dataclass(frozen=True)
class Options:
    """Attributes:
    concurrency: most requests on their way. timeout: seconds for one answer.
    repeat_identical: ask equal sides (a label of thousands of pictures) each for itself.
    price_in, price_out: of a million tokens, in any currency.
    tokenizer: a tokenizer.json or a model directory that counts the reasoning's tokens; without one
        the server's numbers do.
    """

    url: str = URL
    sampling: Sampling = field(default_factory=Sampling)
    prompts: Prompts = field(default_factory=Prompts.load)
    filters: Filters = field(default_factory=Filters)
    media: SentMedia = field(default_factory=SentMedia)
    retries: Retries = field(default_factory=Retries)
    concurrency: int = 32
    timeout: float = 600.0
    repeat_identical: bool = False
    price_in: float | None = None
    price_out: float | None = None
    tokenizer: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint: got {self.url!r}, wants http://… or https://…")
        if type(self.concurrency) is not int or self.concurrency < 1:
            raise ValueError(f"concurrency: wants a whole number above 0, got {self.concurrency!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout: wants seconds above 0, got {self.timeout!r}")
        for name in ("price_in", "price_out"):
            price = getattr(self, name)
            if price is not None and not 0 <= price < float("inf"):
                raise ValueError(f"{name}: wants a price from 0, got {price!r}")

    @property
    def asked_with(self) -> dict[str, Any]:
        """What an answer depends on besides its pair: it may not change within a run."""
        sampling = asdict(self.sampling)
        return sampling | {
            "prompts": self.prompts.digest,
            "media": asdict(self.media),
            "repeat_identical": self.repeat_identical,
        }

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """None without prices."""
        if self.price_in is None and self.price_out is None:
            return None
        prices = (self.price_in or 0.0, self.price_out or 0.0)
        return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6


def annotate(
    store: PairStore,
    output: str | Path,
    options: Options | None = None,
    *,
    root: str | Path,
    limit: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Ask what is not answered yet, then filter all answers and write sft.jsonl, dropped.jsonl and
    statistics.json to the folder `output`; the statistics.

    Args:
        root: what media paths in the records are below.
        limit: only the first pairs.

    Raises:
        ValueError: bad settings, or `output` holds a run asked with others.
        RecordError: a record does not fit; nothing was asked.
        EndpointError: the endpoint refuses the key or the model, or answers nothing any more.
    """
    options = options or Options()
    count = tokenizer_counter(options.tokenizer) if options.tokenizer else None
    started = time.monotonic()
    with AnswerJournal(Path(output), options.asked_with) as journal:
        plan = make_plan(
            store,
            options.prompts,
            os.path.abspath(root),
            journal,
            limit=limit,
            repeat_identical=options.repeat_identical,
            progress=progress,
        )
        before, failures = len(journal), {}
        if plan.todo:
            with progress_bar("annotate", len(plan.todo), unit="sides", show=progress) as bar:
                run = _Run(store, plan, journal, options, bar)
                asyncio.run(run.ask_all())
            plan.unusable |= run.unanswered
            failures = dict(run.endpoint.failures)
        about = {
            "url": options.url,
            **options.asked_with,
            "asked": len(journal) - before,
            "failed_attempts": failures,
            "seconds": round(time.monotonic() - started, 3),
            "cost": options.cost(journal.prompt_tokens, journal.completion_tokens),
        }
        return write_results(store, plan, journal, options.filters, count, root, about, progress)


class _Run:
    def __init__(
        self, store: PairStore, plan: Plan, journal: AnswerJournal, options: Options, bar: Bar
    ):
        self.store, self.plan, self.journal, self.options = store, plan, journal, options
        self.endpoint = Endpoint(
            options.url,
            options.sampling,
            timeout=options.timeout,
            retries=options.retries,
            api_key=options.api_key,
            on_trouble=lambda reason: bar.advance(0, **self._numbers(), last=reason[:60]),
        )
        self.unanswered: dict[tuple[int, int], tuple[str, str]] = {}
        self._bar, self._in_vain = bar, 0
        self._started, self._tokens, self._answers, self._kept = time.monotonic(), 0, 0, 0

    async def ask_all(self) -> None:
        todo = iter(self.plan.todo)
        try:
            async with self.endpoint, asyncio.TaskGroup() as group:
                for _ in range(min(self.options.concurrency, len(self.plan.todo))):
                    group.create_task(self._work(todo))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _work(self, todo: Iterator[tuple[int, int]]) -> None:
        for number, place in todo:
            try:
                # reading and resizing pictures would stop all other requests
                turns = await asyncio.to_thread(self._messages, number, place)
                asked = time.monotonic()
                reply = await self.endpoint.ask(turns)
            except NoAnswer as failure:
                self._failed((number, place), failure)
                continue
            seconds = round(time.monotonic() - asked, 3)
            self.journal.add(int(self.plan.keys[number, place]), reply, seconds=seconds)
            self._in_vain = 0
            self._answers += 1
            self._tokens += reply.usage.completion if reply.usage else 0
            # without a tokenizer, which would hold up the others: the last digit may differ
            self._kept += isinstance(judge(reply, self.options.filters), Kept)
            self._bar.advance(1, **self._numbers())

    def _messages(self, number: int, place: int) -> list[dict[str, Any]]:
        pair = self.store[number]
        asked = question((pair.query, pair.target)[place], pair.dataset)
        words = self.options.prompts.render(SIDES[place], asked)
        where = f"{self.store.where(number)}, {SIDES[place]}"
        told = words, asked, self.options.prompts.system, self.options.media, where
        if not asked.media:
            return messages(*told)
        from umer1.media import MediaError  # brings torch

        try:
            return messages(*told)
        except MediaError as error:
            raise NoAnswer("damaged medium", str(error)) from None

    def _failed(self, side: tuple[int, int], failure: NoAnswer) -> None:
        self.unanswered[side] = failure.kind, failure.reason
        self._bar.advance(1, **self._numbers())
        if failure.kind == "damaged medium":  # says nothing about the endpoint
            return
        self._in_vain += 1
        if self._in_vain >= self.options.concurrency + _IN_VAIN:
            raise EndpointError(
                f"{self.options.url}: {self._in_vain} questions in a row got no answer, the last: "
                f"{failure.reason}; {self._answers} were answered before and are kept"
            )

    def _numbers(self) -> dict[str, Any]:
        spent = max(time.monotonic() - self._started, 1e-9)
        numbers: dict[str, Any] = {"tokens/s": round(self._tokens / spent)}
        cost = self.options.cost(self.journal.prompt_tokens, self.journal.completion_tokens)
        if cost is not None and len(self.journal):
            left = len(self.plan.todo) - self._answers - len(self.unanswered)
            whole = cost * (len(self.journal) + left) / len(self.journal)
            numbers["cost"] = f"{cost:.4g} of about {whole:.4g}"
        numbers["kept"] = f"{self._kept / max(self._answers, 1):.1%}"
        if self.unanswered:
            numbers["unanswered"] = len(self.unanswered)
        return numbers
