"""How often a model's samples find a training pair's own target: what tells hard pairs from easy ones.

    measure_pass_rates(Embedder.load("sft-model"), store, "rates.jsonl", samples=8)

Pairs of one source are compared in groups, as RL compares them: each query is sampled, the targets are
embedded once, greedily; a sample is right when the nearest target of the group is the pair's own (or
equal to it). The file is that of `umer1.data.pass_rates`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from umer1.data.annotation.sides import bare_text
from umer1.data.cache import write_whole
from umer1.data.digest import side_digest
from umer1.data.records import Pair, Side
from umer1.data.seen import target_digest
from umer1.data.store import PairStore
from umer1.parts import take_lock
from umer1.progress import progress_bar


def measure_pass_rates(
    embedder,
    store: PairStore,
    output: str | Path,
    *,
    samples: int = 8,
    temperature: float = 1.0,
    group: int = 64,
    max_new_tokens: int = 2048,
    batch_size: int = 32,
    seed: int = 0,
    model_id: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write one line per pair; means by source.

    A stopped run goes on with the same call: finished groups are in `<output>.partial`, with a digest
    of the pairs (texts, media by path, sources). One process at a time writes an output.

    Args:
        group: pairs compared with each other, as near to it as the source's size allows. A source of
            one pair gets no line: there is nothing to compare.
        model_id: what identifies the weights; a run goes on only with the same.

    Raises ValueError: bad settings, `output` exists, its partial file is of another run or of other
    pairs, or another process is writing it.
    """
    output = Path(output)
    if samples < 1 or group < 2 or not temperature > 0:
        raise ValueError(
            f"got samples={samples}, group={group}, temperature={temperature}; wants samples >= 1, "
            "group >= 2, temperature > 0"
        )
    _refuse_existing(output)
    os.makedirs(output.parent, exist_ok=True)
    lock, refusal = f".{output.name}.lock", f"output: {output}: another process is writing it"
    with take_lock(output.parent, refusal, name=lock):
        _refuse_existing(output)  # another process may have finished it since
        settings = {
            "model": model_id, "pairs": len(store), "data": _data_digest(store, progress),
            "samples": samples, "temperature": temperature, "group": group,
            "max_new_tokens": max_new_tokens, "seed": seed,
        }  # fmt: skip
        with _Partial(output, settings) as partial:
            right = _measure(embedder, store, settings, batch_size, partial, progress)
        known = np.flatnonzero(right >= 0)
        rows = ({"pair": int(n), "right": int(right[n]), "samples": samples} for n in known)
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        write_whole(output, lambda file: file.write(content))
        partial.path.unlink()
        (output.parent / lock).unlink()
    rates, sources = right[known] / samples, store.sources[known]
    by_source = {
        store.source_names[code]: float(rates[sources == code].mean())
        for code in np.unique(sources)
    }
    told = {"measured": len(known), "pass_rate": float(rates.mean()) if len(known) else None}
    return {**settings, **told, "sources": by_source}


def _refuse_existing(output):
    if output.exists():
        raise ValueError(f"output: {output} exists")


def _measure(embedder, store, settings, batch_size, partial, progress) -> np.ndarray:
    """int64 [N]: right samples of each pair, -1 for those without a group."""
    right = np.full(len(store), -1, np.int64)
    for numbers, found in partial.done:
        right[numbers] = found
    options = {"max_new_tokens": settings["max_new_tokens"], "batch_size": batch_size}
    drawn = {"n": settings["samples"], **options}
    drawn |= {name: settings[name] for name in ("temperature", "seed")}
    with progress_bar("pass rates", len(store), unit="pairs", show=progress) as bar:
        bar.advance(int((right >= 0).sum()))
        for numbers in _groups(store, settings["group"], settings["seed"]):
            if (right[numbers] < 0).any():
                pairs = [store[int(number)] for number in numbers]
                found = _right_samples(embedder, pairs, numbers.tolist(), drawn, options)
                right[numbers] = found
                partial.add(numbers, found)
                bar.advance(len(numbers), right=float(right[right >= 0].mean() / drawn["n"]))
    return right


def _data_digest(store: PairStore, progress: bool) -> str:
    """Of every pair's texts and media and its source, in order."""
    digest, names, sources = hashlib.sha256(), store.source_names, store.sources
    with progress_bar("read pairs", len(store), unit="pairs", show=progress) as bar:
        for number in range(len(store)):
            pair = store[number]
            sides = [side_digest(pair.query), side_digest(pair.target)]
            digest.update(json.dumps([names[sources[number]], *sides]).encode())
            bar.advance(1)
    return digest.hexdigest()[:16]


def _groups(store: PairStore, group: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for source in np.unique(store.sources):
        own = generator.permutation(np.flatnonzero(store.sources == source))
        if len(own) > 1:
            yield from np.array_split(own, max(1, round(len(own) / group)))


def _right_samples(
    embedder, pairs: list[Pair], numbers: list[int], drawn: dict, options: dict
) -> np.ndarray:
    """int64 [N]: how many samples of each query have a nearest target equal to its own."""
    queries, targets = (
        [_item(getattr(pair, side)) for pair in pairs] for side in ("query", "target")
    )
    samples = np.zeros((len(pairs), drawn["n"], embedder.dimension), np.float32)  # [N, K, D]
    hit = np.zeros(samples.shape[:2], bool)
    for place, result in embedder.stream(queries, mode="gen", numbers=numbers, **drawn):
        samples[place] = result.gen.reshape(samples.shape[1:])
        hit[place] = result.hit.reshape(hit.shape[1:])
    vectors = embedder.encode(targets, mode="gen", progress=False, **options).gen  # [N, D]
    nearest = (samples @ vectors.T).argmax(axis=-1)  # [N, K]
    digests = np.array([target_digest(pair) for pair in pairs], np.uint64)
    # a sample that wrote no <gen_emb> has no vector to be judged by
    return (hit & (digests[nearest] == digests[:, None])).sum(axis=1)


def _item(side: Side) -> dict[str, Any]:
    item: dict[str, Any] = {"text": bare_text(side.text)}
    if side.video:
        item["video"] = side.video
    elif side.images:
        item["images"] = side.images
    return item


class _Partial:
    """Finished groups on disk, a line each after a line of settings."""

    def __init__(self, output: Path, settings: dict[str, Any]):
        self.path = output.with_name(f"{output.name}.partial")
        self.done: list[tuple[list[int], list[int]]] = []
        lines = self.path.read_bytes().splitlines(True) if self.path.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")]  # a kill may cut the last
        if not lines:
            lines = [json.dumps(settings).encode() + b"\n"]
            write_whole(self.path, lambda file: file.write(lines[0]))
        before = json.loads(lines[0])
        for name, value in settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"output: {self.path} is of a run with {name} {before.get(name)!r}, not {value!r}; "
                    "delete it to start again"
                )
        for line in lines[1:]:
            row = json.loads(line)
            self.done.append((row["pairs"], row["right"]))
        self._file = open(self.path, "r+b")  # noqa: SIM115
        self._file.truncate(sum(map(len, lines)))
        self._file.seek(0, os.SEEK_END)

    def add(self, numbers: np.ndarray, right: np.ndarray) -> None:
        row = {"pairs": numbers.tolist(), "right": right.tolist()}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> _Partial:
        return self

    def __exit__(self, *error) -> None:
        self._file.close()
