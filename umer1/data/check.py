"""Checking a whole training set before any GPU time.

    report = check_pairs(open_sft("train/sft.json", "train"))
    report.problems, report.examples

Every pair is read with its hard negatives, their media are looked up (with `decode` also decoded), their
responses are compared with the format. Pairs are shared out to worker processes in chunks.
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
from umer1.data.estimates import TokenRates
from umer1.data.records import RecordError, Side, media_paths
from umer1.data.store import PairStore
from umer1.progress import progress_bar
from umer1.prompts import DISC_TOKEN, GEN_TOKEN, check_text

CHUNK, DECODED_CHUNK = 1000, 25  # pairs a worker takes at once
ALONE = 4000  # fewer pairs than this are not worth other processes
REMEMBERED = 200_000  # files that a worker knows to be there or not
EXAMPLES = 5  # kept of each kind of problem

# kinds of problems
RECORD, MISSING, DAMAGED = "record", "missing medium", "damaged medium"
PROMPT, RESPONSE = "no <disc_emb>", "<gen_emb> not once at the end"
UNICODE, LONG = "not valid Unicode", "longer than max_length"


@dataclass(frozen=True, slots=True)
class Checks:
    """What is checked beyond format and presence.

    Attributes:
        decode: open and decode each medium.
        max_length: the most tokens of a side; None: any.
        model: directory, hub id or "tiny": every side is encoded as for training this model, which
            decodes its media and counts its tokens. "": tokens are estimated.
    """

    decode: bool = False
    max_length: int | None = None
    model: str = ""


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
            reason = reason.encode(
                "utf-8", "backslashreplace"
            ).decode()  # a path may have lone surrogates
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
    max_length: int | None = None,
    model: str = "",
    limit: int | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Check the first `limit` pairs (all by default). What is wrong is counted, never raised.

    decode, max_length, model: see `Checks`.
    """
    checks = Checks(decode, max_length, model)
    count = len(store) if limit is None else min(limit, len(store))
    slow = decode or bool(model)
    size = DECODED_CHUNK if slow else CHUNK
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    report = Report()
    with progress_bar("check", count, unit="pairs", show=progress) as bar:
        for done in _run(store, chunks, checks, workers, alone=count < ALONE and not slow):
            report.add(done)
            bar.advance(done.pairs, problems=report.problems.total())
    return report


def _run(
    store: PairStore, chunks: list[range], checks: Checks, workers: int, alone: bool
) -> Iterator[Report]:
    """Reports in the order of the chunks."""
    if alone or workers < 2 or len(chunks) < 2:
        checker = _Checker(store, checks)
        yield from map(checker.check, chunks)
        return
    with ProcessPoolExecutor(
        min(workers, len(chunks)),
        mp_context=multiprocessing.get_context("forkserver"),
        initializer=_Checker.start,
        initargs=(store, checks),
    ) as pool:
        yield from pool.map(_Checker.check_here, chunks)


class _Checker:
    """Checks pairs in one process; remembers what it found out about files."""

    here: _Checker

    def __init__(self, store: PairStore, checks: Checks):
        self.store, self.checks = store, checks
        self._missing_files: dict[str, bool] = {}
        self._exact = None
        if checks.model:
            from umer1.data.usable import exact_tokens

            self._exact = exact_tokens(checks.model)

    @classmethod
    def start(cls, store: PairStore, checks: Checks) -> None:
        cls.here = cls(store, checks)

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
            negatives = {f"neg[{place}]": side for place, side in enumerate(pair.negatives)}
            for name, side in {"query": pair.query, "target": pair.target, **negatives}.items():
                self._side(side, source, f"{where}, {name}", report)
            digests.append(side_digest(pair.target))
            sources.append(code)
        report.targets.append(np.array(digests, np.int64))
        report.target_sources.append(np.array(sources, np.int32))
        return report

    def _side(self, side: Side, source: str, where: str, report: Report) -> None:
        readable = _texts(side, source, where, report)
        there = self._media(side, source, where, report)
        if not (readable and there):
            return
        tokens, about = None, ""
        if self._exact is not None:
            try:
                tokens = self._exact(side, where)
            except ValueError as error:  # format and text have been looked at
                report.problem(DAMAGED, source, where, str(error))
        elif self.checks.max_length is not None:
            tokens, about = TokenRates().side(side), "about "
        most = self.checks.max_length
        if tokens is not None and most is not None and tokens > most:
            reason = f"{about}{tokens} tokens{' (estimated)' if about else ''}, more than {most}"
            report.problem(LONG, source, where, reason)

    def _media(self, side: Side, source: str, where: str, report: Report) -> bool:
        """Whether all are there and, where that is asked for, whole."""
        report.media += len(side.images) + len(side.video or ())
        missing = [path for path in media_paths(side) if self._missing(path)]
        for path in missing:
            report.problem(MISSING, source, where, f"no such file: {path}")
        if missing or self._exact is not None or not self.checks.decode:
            return not missing
        from umer1.data.usable import decode  # not at the top: it takes torch

        try:
            decode(side, where)
        except ValueError as error:
            report.problem(DAMAGED, source, where, str(error))
            return False
        return True

    def _missing(self, path: str) -> bool:
        if len(self._missing_files) > REMEMBERED:
            self._missing_files.clear()
        if path not in self._missing_files:
            self._missing_files[path] = not os.path.isfile(path)
        return self._missing_files[path]


def _texts(side: Side, source: str, where: str, report: Report) -> bool:
    """Whether the texts can be tokenised; also compares a response with the format."""
    try:
        for text, name in ((side.text, "text"), (side.response or "", "response")):
            check_text(text, name)
    except ValueError as error:
        report.problem(UNICODE, source, where, f"its {error}")
        return False
    if side.response is None:
        return True
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
    return True


def _modality(side: Side) -> str:
    if side.video:
        return "video"
    return ("image" if len(side.images) == 1 else "images") if side.images else "text"
