"""The RL set: a balanced, unseen, perhaps harder part of the pairs there are.

    told = build_rl_subset(store, "rl.json", root="MMEB-train", count=11_000, seen=[sft_store])

As in the paper: equal shares for images, videos and visual documents, within each for its sources;
pairs that SFT has seen only where a source has too few others. Neighbours are of one source and have
different targets, because RL compares pairs that stand together.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from umer1.data.annotation.sides import bare_text
from umer1.data.cache import write_whole
from umer1.data.media_names import MediaNames
from umer1.data.pass_rates import UNKNOWN, read_pass_rates
from umer1.data.records import Pair, Side
from umer1.data.seen import SeenPairs, pair_digests, target_digest
from umer1.data.shares import equal_shares
from umer1.data.store import PairStore
from umer1.progress import progress_bar

COUNT = 11_000  # the released set's size
MODALITIES = ("image", "video", "visdoc", "text")
BALANCED = MODALITIES[:3]
# a visual document is a picture like others: only its source tells
VISDOC = ("visrag*", "*vidore*", "*colpali*")
CHUNK = 16  # pairs that the released RL compares with each other
SEVERAL, UNWANTED, DOUBLE = "several pictures on a side", "other modality", "the same pair again"
UNSOLVED = "solved by no sample"


def build_rl_subset(
    store: PairStore,
    output: str | Path,
    *,
    root: str | Path,
    count: int = COUNT,
    seen: Sequence[PairStore] = (),
    pass_rates: str | Path | None = None,
    drop_unsolved: bool = False,
    modalities: Sequence[str] = BALANCED,
    visdoc: Sequence[str] = VISDOC,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Write `count` pairs as RL rows (.json or .jsonl); what was chosen, in counts.

    Args:
        root: what media paths are below, in `store` and in the rows written.
        seen: what SFT was trained on.
        pass_rates: file of `umer1.data.pass_rates`; harder pairs of a source come first.
        drop_unsolved: leave out pairs that no sample solved.
        modalities: those that get equal shares. visdoc: patterns of sources of visual documents.

    Raises ValueError for settings that cannot be met, RecordError for a record that does not fit.
    """
    output = Path(output)
    if output.suffix not in (".json", ".jsonl"):
        raise ValueError(f"output: got {output}, wants a .json or .jsonl file")
    if unknown := [name for name in modalities if name not in MODALITIES]:
        raise ValueError(f"modalities: got {unknown[0]!r}, wants some of {', '.join(MODALITIES)}")
    if drop_unsolved and pass_rates is None:
        raise ValueError("drop_unsolved: wants pass_rates")
    rates = read_pass_rates(pass_rates, len(store)) if pass_rates else None
    known = SeenPairs.of(seen, progress=progress)
    pool = _Pool(store, known, modalities, visdoc, progress)
    if drop_unsolved:
        pool.exclude(UNSOLVED, rates == 0)
    if not 0 < count <= len(pool.usable):
        raise ValueError(
            f"count: got {count}, wants 1 to {len(pool.usable)}, the pairs that can be chosen "
            f"({_told(pool.excluded) or 'none was left out'})"
        )
    generator = np.random.default_rng(seed)
    chosen = _choose(pool, count, rates, generator)
    order = _arrange(pool, chosen, generator)
    _write_rows(store, order, output, root, progress)
    told = _statistics(pool, order, rates)
    text = json.dumps(told, ensure_ascii=False, indent=1).encode() + b"\n"
    write_whole(output.with_suffix(".statistics.json"), lambda file: file.write(text))
    return told


class _Pool:
    """Attributes, each [N]: modalities int8 (-1 where left out), seen bool, targets uint64. excluded:
    reason -> pairs."""

    def __init__(
        self,
        store: PairStore,
        seen: SeenPairs,
        modalities: Sequence[str],
        visdoc: Sequence[str],
        progress: bool,
    ):
        count = len(store)
        self.sources, self.source_names = store.sources, store.source_names
        self.modalities = np.full(count, -1, np.int8)
        self.seen = np.zeros(count, bool)
        self.targets = np.zeros(count, np.uint64)
        self.excluded: Counter[str] = Counter()
        wanted, known = {MODALITIES.index(name) for name in modalities}, set()
        with progress_bar("read pairs", count, unit="pairs", show=progress) as bar:
            for number in range(count):
                pair = store[number]
                digests = pair_digests(pair)
                reason, modality = None, _modality(pair, visdoc)
                if max(len(side.images) for side in (pair.query, pair.target)) > 1:
                    reason = SEVERAL
                elif modality not in wanted:
                    reason = UNWANTED
                elif digests.exact in known:
                    reason = DOUBLE
                if reason:
                    self.excluded[reason] += 1
                else:
                    known.add(digests.exact)
                    self.modalities[number] = modality
                    self.seen[number] = seen.has(digests)
                    self.targets[number] = target_digest(pair)
                bar.advance(1)

    def exclude(self, reason: str, numbers: np.ndarray) -> None:
        """numbers: bool [N]."""
        numbers = numbers & (self.modalities >= 0)
        self.excluded[reason] += int(numbers.sum())
        self.modalities[numbers] = -1

    @property
    def usable(self) -> np.ndarray:
        return np.flatnonzero(self.modalities >= 0)


def _choose(pool: _Pool, count: int, rates, generator: np.random.Generator) -> np.ndarray:
    """Pair numbers: equal shares of modalities, of the sources of each, the best pairs of a source,
    of equally good ones those with targets of their own."""
    usable = pool.usable
    kinds, sizes = np.unique(pool.modalities[usable], return_counts=True)
    chosen = []
    for kind, share in zip(kinds, equal_shares(count, sizes), strict=True):
        own = usable[pool.modalities[usable] == kind]
        sources, sizes = np.unique(pool.sources[own], return_counts=True)
        for source, part in zip(sources, equal_shares(share, sizes), strict=True):
            pairs = generator.permutation(own[pool.sources[own] == source])
            hardness = rates[pairs] if rates is not None else np.zeros(len(pairs))
            order = np.lexsort((_occurrence(pool.targets[pairs]), hardness, pool.seen[pairs]))
            chosen.append(pairs[order][:part])
    return np.concatenate(chosen)


def _occurrence(values: np.ndarray) -> np.ndarray:
    """How many earlier elements equal each: [7, 5, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    first = np.r_[True, values[order][1:] != values[order][:-1]]
    starts = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    counted = np.empty(len(values), np.int64)
    counted[order] = np.arange(len(values)) - starts
    return counted


def _arrange(pool: _Pool, chosen: np.ndarray, generator: np.random.Generator) -> list[int]:
    """Chunks of one source and modality with different targets where possible, in random order."""
    full, rest = [], []
    group = pool.sources[chosen].astype(np.int64) * len(MODALITIES) + pool.modalities[chosen]
    for code in np.unique(group):
        own = generator.permutation(chosen[group == code])
        # the commonest target first, dealt out in turn: equal ones get to different chunks
        _, places, sizes = np.unique(pool.targets[own], return_inverse=True, return_counts=True)
        own = own[np.lexsort((places, -sizes[places]))]
        chunks = len(own) // CHUNK
        full += [
            generator.permutation(own[start : chunks * CHUNK : chunks]) for start in range(chunks)
        ]
        rest.append(own[chunks * CHUNK :])
    mixed = [full[place] for place in generator.permutation(len(full))]
    mixed += [rest[place] for place in generator.permutation(len(rest))]
    return np.concatenate(mixed).tolist()


def _write_rows(store, order: list[int], output: Path, root, progress: bool) -> None:
    named = MediaNames(root, output.with_name(f"{output.stem}_media"))
    lines = output.suffix == ".jsonl"

    def write(file):
        file.write(b"" if lines else b"[\n")
        with progress_bar("write", len(order), unit="pairs", show=progress) as bar:
            for place, number in enumerate(order):
                row = json.dumps(_row(store[number], named), ensure_ascii=False)
                end = "" if lines or place == len(order) - 1 else ","
                file.write(f"{row}{end}\n".encode("utf-8", "backslashreplace"))
                bar.advance(1)
        file.write(b"" if lines else b"]\n")

    os.makedirs(output.parent, exist_ok=True)
    write_whole(output, write)


def _row(pair: Pair, named: MediaNames) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": pair.dataset, "dataset_name": pair.dataset}
    for name, side in (("qry", pair.query), ("pos", pair.target)):
        row |= {
            f"{name}_text": bare_text(side.text),
            f"{name}_image": named(side.images[0]) if side.images else "",
            f"{name}_video": [named(frame) for frame in side.video] if side.video else [""],
        }
    return row | {"solution": "<embedding>"}


def _modality(pair: Pair, visdoc: Sequence[str]) -> int:
    sides: tuple[Side, ...] = (pair.query, pair.target)
    if any(side.video for side in sides):
        return MODALITIES.index("video")
    if not any(side.images for side in sides):
        return MODALITIES.index("text")
    name = pair.dataset.lower()
    page = any(fnmatchcase(name, pattern.lower()) for pattern in visdoc)
    return MODALITIES.index("visdoc" if page else "image")


def _statistics(pool: _Pool, order: list[int], rates) -> dict[str, Any]:
    chosen = np.array(order)
    sources = {}
    for modality in range(len(MODALITIES)):
        for code in np.unique(pool.sources[pool.modalities == modality]):
            there = (pool.sources == code) & (pool.modalities == modality)
            taken = chosen[there[chosen]]
            row = {
                "modality": MODALITIES[modality],
                "source": pool.source_names[code],
                "pairs": int(there.sum()),
                "unseen": int((there & ~pool.seen).sum()),
                "chosen": len(taken),
                "chosen_seen": int(pool.seen[taken].sum()),
            }
            if rates is not None:
                row |= {"pass_rate": _mean(rates[there]), "chosen_pass_rate": _mean(rates[taken])}
            sources[f"{row['modality']}/{row['source']}"] = row
    counts = Counter(row["modality"] for row in sources.values() for _ in range(row["chosen"]))
    return {
        "pairs": len(pool.modalities),
        "chosen": len(order),
        "modalities": dict(counts),
        "seen": int(pool.seen[chosen].sum()),
        "excluded": dict(pool.excluded),
        "sources": list(sources.values()),
    }


def _mean(rates: np.ndarray) -> float | None:
    known = rates[rates != UNKNOWN]
    return float(known.mean()) if len(known) else None


def _told(counts: Counter) -> str:
    return ", ".join(f"left out: {count} x {reason}" for reason, count in counts.items())
