"""All items of a run through the embedder as one stream.

The engine takes the next item as soon as a row is free, over the borders of sides and tasks: a text
that goes on for thousands of tokens holds up nobody. What has finished goes to the journal; a side
whose last item has finished is written to its files.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from umer1 import parts
from umer1.evaluation.running.batch_size import rows_that_fit
from umer1.evaluation.running.item_journal import KINDS, ItemJournal
from umer1.evaluation.running.progress import RunProgress
from umer1.evaluation.running.ranks import Ranks
from umer1.evaluation.running.sides import SAMPLES, Side, medium

log = logging.getLogger("umer1")
MODE_OF = {kinds: mode for mode, kinds in KINDS.items()}
# how long a network file system may hide what another machine has written
ARRIVAL_SECONDS = 120.0
TEXTS = ("finish", "reasoning", "summary", "tokens")


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How the embedder is called; part of what a result depends on.

    readout: where the disc vector is read, "at" the token or "after" it (the released evaluation).
    temperature, samples: of the sampled query encodings for pass@k; everything else is greedy.
    """

    readout: str = "at"
    max_new_tokens: int = 512
    samples: int = 1
    temperature: float = 1.0
    seed: int = 0


class Encoding:
    """Args:
    load: makes the embedder; called only if there is something to compute.
    batch_size: rows computed together; None: as many as fit into memory.
    finished: called in the first process with every side whose files are written.
    """

    def __init__(
        self,
        load: Callable[[], object],
        options: EncodeOptions,
        journal: ItemJournal,
        ranks: Ranks,
        progress: RunProgress,
        *,
        batch_size: int | None,
        finished: Callable[[Side], None],
    ):
        self.load, self.options, self.batch_size = load, options, batch_size
        self.journal, self.ranks, self.progress = journal, ranks, progress
        self.finished = finished
        self._open: dict[str, Side] = {}  # sides that are not written yet
        self._needs: dict[str, dict[int, tuple[str, ...]]] = {}  # place -> modes to compute
        self._looked = time.monotonic()

    def run(self, sides: list[Side]) -> None:
        """Compute what is missing of `sides` and write it."""
        for side in sides:
            self._open[side.key] = side
            missing = tuple(mode for mode in side.modes if not side.written(mode))
            needs = dict.fromkeys(range(len(side.items)), missing) if missing else {}
            self._needs[side.key] = needs
            if not missing:
                kinds = Counter(item_kind(side, place) for place in range(len(side.items)))
                for kind, items in kinds.items():
                    self.progress.skip(side.task.name, kind, items * side.count)
            self._read_journal(side, self.progress.skip)
        # before the first process writes and drops anything: the others have read it
        self.ranks.meet()
        for side in sides:
            self._close_if_whole(side)
        for mode, sampled, mine in self._phases():
            self._stream(mode, sampled, mine)
        self.journal.commit()
        self.ranks.meet(meanwhile=self._watch)
        self._collect()

    def _phases(self) -> Iterator[tuple[str, bool, list[tuple[Side, int]]]]:
        """(mode, sampled, items of this process): what goes through the embedder in one call."""
        phases: dict[tuple[bool, str], list] = {}
        for side in self._open.values():
            for place, missing in self._needs[side.key].items():
                if self.ranks.owns(place):
                    phase = (side.name == SAMPLES, MODE_OF[missing])
                    phases.setdefault(phase, []).append((side, place))
        # the greedy ones first, and the quick ones of them: scores are seen early
        for sampled in (False, True):
            for mode in KINDS:
                if mine := phases.get((sampled, mode)):
                    yield mode, sampled, mine

    def _stream(self, mode: str, sampled: bool, mine: list[tuple[Side, int]]) -> None:
        embedder = self.load()
        if self.batch_size is None:
            self.batch_size, why = rows_that_fit(embedder, self.options.max_new_tokens)
            log.info("batch size %d: %s", self.batch_size, why)
        count = self.options.samples if sampled else 1
        results = embedder.stream(
            [side.items[place] for side, place in mine],
            mode=mode,
            # an item's samples depend on its place in its side, not on what else is computed
            numbers=[place for _, place in mine],
            n=count,
            temperature=self.options.temperature if sampled else 0.0,
            max_new_tokens=self.options.max_new_tokens,
            seed=self.options.seed,
            batch_size=self.batch_size,
            readout=self.options.readout,
        )
        self.progress.start()
        started, tokens = time.monotonic(), 0
        with closing(results):
            for number, result in results:
                side, place = mine[number]
                vectors = {kind: _vector(result, kind, count) for kind in KINDS[mode]}
                text = (
                    None if mode == "disc" else {name: getattr(result, name)[0] for name in TEXTS}
                )
                self.journal.add(side.key, mode, place, vectors, text)
                if text is not None:
                    tokens += int(np.sum(text["tokens"]))
                rate = {"tokens/s": round(tokens / max(time.monotonic() - started, 1e-9))}
                self._settle(side, place, mode)
                self._count(self.progress.advance, side, place, **(rate if tokens else {}))
                self._close_if_whole(side)
                if time.monotonic() - self._looked > parts.SECONDS:
                    self._look()

    def _settle(self, side: Side, place: int, mode: str) -> bool:
        """An item has been embedded in `mode`; whether that was the last thing it needed."""
        needs = self._needs[side.key]
        if place not in needs:
            return False
        needs[place] = tuple(kind for kind in needs[place] if kind not in KINDS[mode])
        if needs[place]:
            return False
        del needs[place]
        return True

    def _read_journal(self, side: Side, tell: Callable) -> None:
        for mode, places in self.journal.fresh(side.key):
            for place in places:
                if self._settle(side, place, mode):
                    self._count(tell, side, place)

    def _close_if_whole(self, side: Side) -> None:
        """In the first process: write a side of which everything is there."""
        if not self.ranks.first or self._needs[side.key]:
            return
        wanted = [mode for mode in side.modes if not side.written(mode)]
        if wanted:
            side.write(*self.journal.read(side.key, wanted, len(side.items)))
        self.journal.drop(side.key)
        del self._open[side.key]
        self.finished(side)

    def _look(self) -> None:
        """In the first process: what the others have finished meanwhile."""
        self._looked = time.monotonic()
        if self.ranks.first and self.ranks.count > 1:
            for side in list(self._open.values()):
                self._read_journal(side, self.progress.advance)
                self._close_if_whole(side)

    def _collect(self) -> None:
        """All processes are done: their last parts are there, or soon will be."""
        self._look()
        until = time.monotonic() + (ARRIVAL_SECONDS if self.ranks.count > 1 else 0.0)
        while self.ranks.first and self._open and time.monotonic() < until:
            self._watch()
        if self.ranks.first and self._open:
            side = next(iter(self._open.values()))
            raise ValueError(
                f"{side.key}: {len(self._needs[side.key])} of {len(side.items)} items never arrived "
                f"in {self.journal.directory}: do all processes see this directory?"
            )

    def _watch(self) -> None:
        time.sleep(0.2)
        self._look()

    def _count(self, tell: Callable, side: Side, place: int, **numbers: object) -> None:
        tell(side.task.name, item_kind(side, place), side.count, **numbers)


def item_kind(side: Side, place: int) -> tuple[str, str]:
    """(mode, medium) of an item, as RunProgress counts it."""
    return MODE_OF[side.modes], medium(side.items[place])


def count_missing(texts: list[dict]) -> int:
    """How many generations ended without <gen_emb>; their vectors are stand-ins and are reported as
    such.
    """
    endings = [finish for row in texts for finish in _as_list(row["finish"])]
    return sum(finish != "gen_emb" for finish in endings)


def _vector(result, kind: str, count: int) -> np.ndarray:
    """float32 [D], or [k, D] for k samples, of the Embeddings of one item."""
    vectors = getattr(result, kind)
    vectors = np.asarray(vectors.cpu() if hasattr(vectors, "cpu") else vectors, dtype=np.float32)
    if vectors.shape[0] != 1 or vectors.ndim != (3 if kind == "gen" and count > 1 else 2):
        raise ValueError(
            f"the embedder returned {kind} of shape {list(vectors.shape)} for an item, n={count}"
        )
    return vectors[0]


def _as_list(value):
    return [value] if isinstance(value, str) else list(value)
