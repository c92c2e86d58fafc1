"""Checking a whole training set before any GPU time.

    report = check_pairs(open_sft("train/sft.json", "train"))
    report.problems, report.examples

Every pair is read, its media are looked up (with `decode` also decoded), its responses are compared
with the format. Pairs are shared out to worker processes in chunks.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from umer1.data.digest import side_digest
from umer1.data.records import RecordError, Side, media_paths
from umer1.data.store import PairStore
from umer1.progress import progress_bar
from umer1.prompts import DISC_TOKEN, GEN_TOKEN

CHUNK, DECODED_CHUNK = 1000, 25  # pairs a worker takes at once
ALONE = 4000  # fewer pairs than this are not worth other processes
REMEMBERED = 200_000  # files that a worker knows to be there or not
EXAMPLES = 5  # kept of each kind of problem

# kinds of problems
RECORD, MISSING, DAMAGED = "record", "missing medium", "damaged medium"
PROMPT, RESPONSE = "no <disc_emb>", "<gen_emb> not once at the end"


@dataclass(slots=True)
class Problem:
    kind: str
    where: str  # file and record
    reason: str


@dataclass
class Report:
    """What was found, in counts.

    Attributes:
        modalities: (source, "image → text") -> pairs. media: named by the pairs, repeats included.
        responses, think, answer, gen_emb: sides with a response; those with a whole think block, with
            an <answer>, with <gen_emb> once and at the end.
        problems: kind -> count; examples: the first of each kind.
        by_source: source -> problems.
        targets: int64, a digest of each readable pair's target; target_sources: int32.
    """

    pairs: int = 0
    media: int = 0
    responses: int = 0
    think: int = 0
    answer: int = 0
    gen_emb: int = 0
    modalities: Counter = field(default_factory=Counter)
    problems: Counter = field(default_factory=Counter)
    by_source: Counter = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=lambda: defaultdict(list))
    targets: list[np.ndarray] = field(default_factory=list)
    target_sources: list[np.ndarray] = field(default_factory=list)

    def add(self, other: Report) -> None:
        for name in ("pairs", "media", "responses", "think", "answer", "gen_emb"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("modalities", "problems", "by_source"):
            getattr(self, name).update(getattr(other, name))
        for kind, examples in other.examples.items():
            self.examples[kind] = (self.examples[kind] + examples)[:EXAMPLES]
        self.targets += other.targets
        self.target_sources += other.target_sources

    def problem(self, kind: str, source: str, where: str, reason: str) -> None:
        self.problems[kind] += 1
        self.by_source[source] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(Problem(kind, where, reason))

    def duplicate_targets(self) -> Counter:
        """source number -> pairs whose target an earlier pair of the source has too."""
        rows = np.zeros(
            sum(map(len, self.targets)), np.dtype([("source", np.int32), ("digest", np.int64)])
        )
        rows["source"] = np.concatenate([np.empty(0, np.int32), *self.target_sources])
        rows["digest"] = np.concatenate([np.empty(0, np.int64), *self.targets])
        everything, different = Counter(rows["source"].tolist()), np.unique(rows)["source"]
        everything.subtract(Counter(different.tolist()))
        return +everything


def check_pairs(
    store: PairStore,
    *,
    decode: bool = False,
    limit: int | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Check the first `limit` pairs (all by default). What is wrong is counted, never raised.

    decode: open and decode each medium instead of only looking it up.
    """
    count = len(store) if limit is None else min(limit, len(store))
    size = DECODED_CHUNK if decode else CHUNK
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    report = Report()
    with progress_bar("check", count, unit="pairs", show=progress) as bar:
        for done in _run(store, chunks, decode, workers, alone=count < ALONE and not decode):
            report.add(done)
            bar.advance(done.pairs, problems=report.problems.total())
    return report


def _run(
    store: PairStore, chunks: list[range], decode: bool, workers: int, alone: bool
) -> Iterator[Report]:
    """Reports in the order of the chunks."""
    if alone or workers < 2 or len(chunks) < 2:
        checker = _Checker(store, decode)
        yield from map(checker.check, chunks)
        return
    with ProcessPoolExecutor(
        min(workers, len(chunks)),
        mp_context=multiprocessing.get_context("forkserver"),
        initializer=_Checker.start,
        initargs=(store, decode),
    ) as pool:
        yield from pool.map(_Checker.check_here, chunks)


class _Checker:
    """Checks pairs in one process; remembers what it found out about files."""

    here: _Checker

    def __init__(self, store: PairStore, decode: bool):
        self.store, self.decode = store, decode
        self._missing_files: dict[str, bool] = {}

    @classmethod
    def start(cls, store: PairStore, decode: bool) -> None:
        cls.here = cls(store, decode)

    @classmethod
    def check_here(cls, numbers: range) -> Report:
        return cls.here.check(numbers)

    def check(self, numbers: range) -> Report:
        report, digests, sources = Report(), [], []
        for number in numbers:
            report.pairs += 1
            where, code = self.store.where(number), int(self.store.sources[number])
            source = self.store.source_names[code]
            try:
                pair = self.store[number]
            except RecordError as error:
                report.problem(RECORD, source, where, str(error))
                continue
            kinds = " → ".join(_modality(side) for side in (pair.query, pair.target))
            report.modalities[source, kinds] += 1
            for name, side in (("query", pair.query), ("target", pair.target)):
                self._media(side, source, f"{where}, {name}", report)
                _texts(side, source, f"{where}, {name}", report)
            digests.append(side_digest(pair.target))
            sources.append(code)
        report.targets.append(np.array(digests, np.int64))
        report.target_sources.append(np.array(sources, np.int32))
        return report

    def _media(self, side: Side, source: str, where: str, report: Report) -> None:
        paths = media_paths(side)
        report.media += len(side.images) + len(side.video or ())
        missing = [path for path in paths if self._missing(path)]
        for path in missing:
            report.problem(MISSING, source, where, f"no such file: {path}")
        if missing or not self.decode:
            return
        from umer1.media import MediaError, load_image, load_video

        try:
            for image in side.images:
                load_image(image, where)
            if side.video:
                load_video(side.video, where, num_frames=len(side.video))
        except MediaError as error:
            report.problem(DAMAGED, source, where, str(error))

    def _missing(self, path: str) -> bool:
        if len(self._missing_files) > REMEMBERED:
            self._missing_files.clear()
        if path not in self._missing_files:
            self._missing_files[path] = not os.path.isfile(path)
        return self._missing_files[path]


def _texts(side: Side, source: str, where: str, report: Report) -> None:
    if side.response is None:
        return
    if DISC_TOKEN not in side.text:
        report.problem(PROMPT, source, where, f"its human turn has no {DISC_TOKEN}")
    report.responses += 1
    opened, closed = side.response.find("<think>"), side.response.find("</think>")
    report.think += 0 <= opened < closed
    report.answer += "<answer>" in side.response
    count, last = side.response.count(GEN_TOKEN), side.response.rstrip().endswith(GEN_TOKEN)
    if count == 1 and last:
        report.gen_emb += 1
    else:
        end = side.response[-40:]
        report.problem(
            RESPONSE, source, where, f"its response has {count} {GEN_TOKEN} and ends with {end!r}"
        )


def _modality(side: Side) -> str:
    if side.video:
        return "video"
    return ("image" if len(side.images) == 1 else "images") if side.images else "text"
