"""The engine over servers that write tokens: vLLM, SGLang.

    engine = vllm_engine(["http://one:8000", "http://two:8000"], model, processor)
    for finished in engine.submit(prompts, Sampling(max_new_tokens=256)): ...

The servers get token ids and pixels and give token ids back; which tokens count, and which state is
the vector, is decided here, for every server by the same rules. The state comes from the server
where it gives states, otherwise from one forward of the finished sequence by our own model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from umer1.engine.remote.http_client import LoopThread
from umer1.engine.remote.outcome import Outcome, outcome, rest_of_tag
from umer1.engine.remote.reread import Reader, Written
from umer1.engine.remote.server import Server
from umer1.engine.remote.weights import WeightSource
from umer1.engine.remote.wire import WirePrompt, wire_prompt
from umer1.engine.requests import Finished, Prompt, Rollout, Sampling, SpecialTokens, prompt_seed
from umer1.media import PixelFormat
from umer1.model.config import ModelConfig

ROWS = 64  # requests under way at once, per server
_SEEDS = (1 << 63) - 1


@dataclass(slots=True, eq=False)
class _Row:
    """One sample of one prompt; sample -1: only the disc vector is wanted."""

    place: int
    sample: int
    prompt: Prompt
    job: _Job
    seed: int


class _Job:
    """What the samples of a prompt share."""

    def __init__(self, prompt: Prompt, wire: WirePrompt | None, server: Server):
        self.prompt, self.wire, self.server = prompt, wire, server
        self.disc = None  # the task that asks for the disc vector


class _Done(NamedTuple):
    row: _Row
    ended: Outcome | None
    logprobs: list[float]
    vector: Tensor | None
    disc: Tensor | None


class RemoteEngine:
    """`Engine` over one or more servers of the same weights; the samples of a prompt go to one.

    Args:
        reader: reads finished sequences with our own model, where the servers give no states.
        weights: what `load` sends, and where to.
        rows: requests under way at once, per server.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        special: SpecialTokens,
        config: ModelConfig,
        pixel_format: PixelFormat,
        *,
        reader: Reader | None = None,
        weights: WeightSource,
        rows: int = ROWS,
    ):
        if not servers:
            raise ValueError("servers: got none, wants at least one address")
        if rows < 1:
            raise ValueError(f"rows: got {rows}, wants at least 1")
        self.servers, self.special, self.reader = list(servers), special, reader
        self.config, self.pixel_format, self.weights = config, pixel_format, weights
        self.rows = rows
        self.version = 0
        self._thread = LoopThread()
        self._longest: int | None = None
        self._running, self._awake = 0, True

    def submit(
        self, prompts: Iterable[Prompt], sampling: Sampling, *, samples: int = 1
    ) -> Iterator[Finished]:
        """See `Engine.submit`."""
        if samples < 0:
            raise ValueError(f"samples: got {samples}, wants 0 or more")
        if not self._awake:
            raise RuntimeError("the engine sleeps: wake() it first")
        if sampling.max_think_tokens is not None and not self.special.think_end:
            raise ValueError(
                "max_think_tokens: this engine was not told the tokens of </think> "
                "(SpecialTokens.think_end)"
            )
        if isinstance(prompts, (list, tuple)):
            for place, prompt in enumerate(prompts):
                self._check(prompt, sampling, samples, f"prompt {place}")
        return self._run(prompts, sampling, samples)

    def longest_prompt(self, new_tokens: int) -> int | None:
        """See `Engine.longest_prompt`; what our own model reads is not the servers' business."""
        if not new_tokens and self.reader is not None:
            return None
        if self._longest is None:
            self._longest = min(self._thread.run(s.longest()) for s in self.servers)
        # the step that reads a <gen_emb> in the last place is one more
        return self._longest - new_tokens - 1

    def load(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `Engine.load`. Every server reads the new weights from the directory that
        `WeightSource` writes; when one of them fails, an error says which."""
        self._require_idle("load")
        if self.reader is not None:
            self.reader.features.clear()
        with self.weights.published(named, version) as directory:
            for server in [self._thread.start(s.load(directory, version)) for s in self.servers]:
                server.result()
        self.version = version

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        self._require_idle("sleep")
        if self.reader is not None:
            self.reader.features.clear()
        for server in self.servers:
            self._thread.run(server.sleep())
        self._awake = False

    def wake(self) -> None:
        """See `Engine.wake`."""
        if not self._awake:
            for server in self.servers:
                self._thread.run(server.wake())
        self._awake = True

    def close(self) -> None:
        """Close the connections; the servers go on."""
        for server in self.servers:
            self._thread.run(server.close())
        self._thread.close()

    def _require_idle(self, what: str) -> None:
        if self._running:
            raise RuntimeError(f"{what}: {self._running} submissions have not finished")

    def _check(self, prompt: Prompt, sampling: Sampling, samples: int, name: str) -> None:
        disc = prompt.disc_position
        if not samples and disc is None:
            raise ValueError(f"{name}: samples is 0 and disc_position None: nothing to compute")
        if disc is not None and not 0 <= disc < len(prompt.sequence):
            raise ValueError(
                f"{name}: disc_position is {disc}, wants a place in its {len(prompt.sequence)} "
                "tokens"
            )
        new = sampling.max_new_tokens if samples else 0
        longest = self.longest_prompt(new)
        if longest is not None and len(prompt.sequence) > longest:
            raise ValueError(
                f"{name}: {len(prompt.sequence)} prompt tokens and {new + 1} new ones, the server "
                f"takes {self._longest}: shorten it, lower max_new_tokens, or start the server "
                "with more"
            )

    def _run(
        self, prompts: Iterable[Prompt], sampling: Sampling, samples: int
    ) -> Iterator[Finished]:
        rows = self._rows(prompts, sampling, samples)
        flying: set[Future] = set()
        self._running += 1
        more = True
        try:
            while more or flying:
                while more and len(flying) < self.rows * len(self.servers):
                    row = next(rows, None)
                    more = row is not None
                    if more:
                        flying.add(self._thread.start(self._finish(row, sampling)))
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                yield from self._delivered([each.result() for each in done], sampling)
        finally:
            for each in flying:
                each.cancel()
            self._running -= 1

    def _rows(self, prompts: Iterable[Prompt], sampling: Sampling, samples: int) -> Iterator[_Row]:
        for place, prompt in enumerate(prompts):
            name = f"prompt {place}"
            self._check(prompt, sampling, samples, name)
            wire = None
            if samples or self.reader is None:
                wire = wire_prompt(prompt.sequence, self.config, self.pixel_format, name)
            job = _Job(prompt, wire, self.servers[place % len(self.servers)])
            if wire is not None and not job.server.takes_videos:
                if any(medium.kind == "video" for medium in wire.media):
                    raise ValueError(
                        f"{name}: has a video, and {job.server.url} takes images alone"
                    )
            for sample in range(samples) if samples else (-1,):
                yield _Row(place, sample, prompt, job, prompt_seed(prompt, sampling, sample))

    async def _finish(self, row: _Row, sampling: Sampling) -> _Done:
        """Everything that servers do for a row."""
        disc = vector = ended = None
        logprobs: list[float] = []
        if row.sample >= 0:
            ended, logprobs, vector = await self._write(row, sampling)
        if self.reader is None and row.prompt.disc_position is not None:
            disc = await self._disc(row.job, sampling)
        return _Done(row, ended, logprobs, vector, disc)

    async def _write(
        self, row: _Row, sampling: Sampling
    ) -> tuple[Outcome, list[float], Tensor | None]:
        server, prompt = row.job.server, row.job.wire
        own = server.gives_states
        # a server that gives the state of the last token's input has to write one token more
        stop = [self.special.eos_id]
        if sampling.stop == "first" and not own:
            stop.append(self.special.gen_id)
        written: list[int] = []
        logprobs: list[float] = []
        state = None
        while (ended := outcome(written, self.special, sampling)) is None:
            left = sampling.max_new_tokens - len(written)
            budget = sampling.max_think_tokens
            if budget is not None and len(written) < budget:
                count = min(budget - len(written), left)
            elif budget is not None and (forced := rest_of_tag(written, self.special)):
                written += forced
                logprobs += [float("nan")] * len(forced)
                state = None
                continue
            else:
                count = left
            got = await server.complete(
                prompt,
                written,
                count + (own and count == left),
                stop,
                sampling,
                (row.seed + len(written)) & _SEEDS,
            )
            if not got.tokens:
                raise RuntimeError(
                    f"{server.url}: wrote nothing where {count} tokens were asked for"
                )
            written, state = written + got.tokens, got.state
            logprobs += got.logprobs or []
        if own and (state is None or ended.read != len(written) - 2):
            state = await self._state(row.job, written[: ended.read + 1], sampling)
        vector = F.normalize(state, dim=-1) if own else None
        return ended, logprobs[: len(ended.tokens)], vector

    async def _state(self, job: _Job, written: list[int], sampling: Sampling) -> Tensor:
        """Of the last of prompt and `written`."""
        got = await job.server.complete(job.wire, written, 1, [], sampling, 0)
        return got.state

    async def _disc(self, job: _Job, sampling: Sampling) -> Tensor:
        if job.disc is None:
            head = job.wire.head(job.prompt.disc_position + 1)
            job.disc = asyncio.ensure_future(job.server.complete(head, [], 1, [], sampling, 0))
        return F.normalize((await job.disc).state, dim=-1)

    def _delivered(self, done: list[_Done], sampling: Sampling) -> Iterator[Finished]:
        if self.reader is not None:
            done = self._read(done, sampling)
        for row, ended, logprobs, vector, disc in done:
            rollout = None
            if ended is not None:
                tokens, _, hit, finish = ended
                rollout = Rollout(tokens, logprobs, vector, hit, finish, self.version)
            yield Finished(row.place, row.sample, rollout, disc)

    def _read(self, done: list[_Done], sampling: Sampling) -> list[_Done]:
        """The vectors and log-probabilities of rows from our own model."""
        wanted = []
        for row, ended, *_ in done:
            sequence, disc = row.prompt.sequence, row.prompt.disc_position
            reads = [] if disc is None else [disc]
            if ended is None:
                wanted.append(Written(sequence.head(disc + 1), [], reads, 1.0))
                continue
            reads.append(len(sequence) + ended.read)
            wanted.append(Written(sequence, ended.tokens, reads, sampling.temperature))
        read = []
        for each, (vectors, logprobs) in zip(done, self.reader.read(wanted)):
            disc = vectors[0] if each.row.prompt.disc_position is not None else None
            vector = None if each.ended is None else vectors[-1]
            read.append(each._replace(logprobs=logprobs, vector=vector, disc=disc))
        return read
