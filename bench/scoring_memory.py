"""Time and peak memory of scoring a task whose scores do not fit in memory.

    python -m bench.scoring_memory --queries 2000 --candidates 1000000 --dimension 256

Candidates lie in a memory-mapped file, as a run leaves them. Peak memory is the process's own
(RssAnon of /proc/self/status, read every 20 ms) beyond what it held before scoring; pages of the
file that the kernel keeps are not the process's to give back and are not counted. The rankings of
a few queries are compared with one product and numpy's stable sort.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CHECKED = 16


def measure(queries: int, candidates: int, dimension: int, device: str | None) -> dict:
    """One measurement: seconds, memory in bytes, what the plain way would need."""
    from umer1.evaluation.scores.scoring import score_vectors
    from umer1.evaluation.scores.top_candidates import rank_top  # noqa: F401  (its import is not timed)

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        vectors = _write(Path(folder) / "candidates.npy", random, candidates, dimension)
        labels = random.integers(0, candidates, queries)
        # near enough to their labels to find most of them
        noise = random.standard_normal((queries, dimension), dtype=np.float32)
        asked = vectors[labels] + 3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        names = [f"c{row}" for row in range(candidates)]
        infos = [{"cand_names": [], "label_name": names[row]} for row in labels.tolist()]
        with _Peak() as peak:
            start, used = time.perf_counter(), time.process_time()
            scored = score_vectors(infos, names, asked, vectors, "global", device=device)
            seconds, used = time.perf_counter() - start, time.process_time() - used
        _check(scored, asked, vectors)
    return {
        "queries": queries,
        "candidates": candidates,
        "dimension": dimension,
        "device": device or "cpu",
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),
        "gflops": round(2e-9 * queries * candidates * dimension / seconds, 1),
        "peak_bytes": peak.bytes,
        "bytes_of_all_scores": 4 * queries * candidates,
        "bytes_of_candidates": 4 * candidates * dimension,
        "mrr@10": float(scored.scores.values["mrr@10"].mean()),
    }


class _Peak:
    """`bytes`: by how much this process's anonymous memory rose at most inside the block."""

    def __enter__(self):
        self.before, self.highest, self.done = _anonymous(), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    @property
    def bytes(self) -> int:
        return max(0, self.highest - self.before)

    def _watch(self):
        while not self.done.wait(0.02):
            self.highest = max(self.highest, _anonymous())


def _anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _write(path, random, candidates, dimension):
    shape = (candidates, dimension)
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, candidates, 50_000):
        rows = min(50_000, candidates - start)
        part = random.standard_normal((rows, dimension), dtype=np.float32)
        vectors[start : start + rows] = part / np.linalg.norm(part, axis=1, keepdims=True)
    vectors.flush()
    return np.load(path, mmap_mode="r")


def _check(scored, queries, vectors):
    chosen = np.linspace(0, len(queries) - 1, min(CHECKED, len(queries)), dtype=int)
    scores = np.dot(queries[chosen], vectors.T)
    for number, row in zip(chosen, scores, strict=True):
        best = np.argsort(-row, kind="stable")[:10]
        found = [int(name[1:]) for name in scored.predictions[int(number)]["prediction"][:10]]
        # another order is right only between scores that differ in the last bits
        if found != best.tolist() and np.abs(row[found] - row[best]).max() > 1e-6:
            raise AssertionError(f"query {number}: ranked {found}, need {best.tolist()}")


def main(argv: list[str] | None = None) -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--device", default=None, help="cuda, for example; default: the CPU")
    args = parser.parse_args(argv)
    print(json.dumps(measure(args.queries, args.candidates, args.dimension, args.device), indent=2))


if __name__ == "__main__":
    main()
