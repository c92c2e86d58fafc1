"""What search costs one core, by type of index and number of vectors: `python -m bench.billions_search`.

    python -m bench.billions_search                                  # 100,000 and 1,000,000 vectors of 256 numbers; HNSW fewer
    python -m bench.billions_search --rows 100000 --hnsw-rows 20000

Times are of the processor, of one thread, so that whoever else uses the machine does not count; waiting for memory does.
The vectors are points of a 48-dimensional normal distribution in 256 dimensions with noise of a tenth of their variance,
unit length; queries are drawn alike. recall@10 is the share of the ten nearest, as exact search has them, among the ten
found. The types are set up as `umer1 index` does it: HNSW with 32 edges, efConstruction 100, efSearch 128; IVF-PQ with
4 * sqrt(n) cells, a byte for 8 numbers, and 100 candidates whose exact scores decide.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.environment import environment
from bench.results import write

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "bench" / "results" / "billions" / "search.json"
LATENT, NOISE = 48, 0.1
K, QUERIES, CANDIDATES = 10, 200, 100
EDGES, BUILD_EFFORT, EFFORT = 32, 100, 128
# few and many: the difference is what a code costs
PROBES = (1, 8, 32, 128)
TRAINING_ROWS_PER_CELL = 64
BLOCK = 1 << 14


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.billions_search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--hnsw-rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--json", type=Path, default=OUTPUT)
    arguments = parser.parse_args(argv)
    import faiss

    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    basis = random.standard_normal((LATENT, arguments.dimension)) / LATENT**0.5
    stored = draw(random, basis, max(arguments.rows + arguments.hnsw_rows))
    queries = draw(random, basis, QUERIES)
    command = (
        f"python -m bench.billions_search --rows {' '.join(map(str, arguments.rows))} "
        f"--hnsw-rows {' '.join(map(str, arguments.hnsw_rows))}"
    )
    content = {"command": command, "environment": environment(), "rows": []}
    for count in sorted({*arguments.rows, *arguments.hnsw_rows}):
        kinds = {
            kind
            for kind, counts in (("cells", arguments.rows), ("graph", arguments.hnsw_rows))
            if count in counts
        }
        for row in measure(stored[:count], queries, kinds):
            content["rows"].append({**row, "rows": count, "dimension": arguments.dimension})
            write(arguments.json, content)
            print(content["rows"][-1], flush=True)
    return 0


def draw(random: np.random.Generator, basis: np.ndarray, count: int) -> np.ndarray:
    """Unit vectors float32 [count, d]."""
    made = np.empty((count, basis.shape[1]), np.float32)
    for block in blocks(count):
        size = block.stop - block.start
        rows = random.standard_normal((size, LATENT)) @ basis
        rows += NOISE**0.5 * random.standard_normal(rows.shape)
        made[block] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


def measure(stored: np.ndarray, queries: np.ndarray, kinds: set[str]) -> Iterator[dict]:
    """The rows of one number of vectors; exact search beside the cells."""
    flat, exact = flat_search(stored, queries)
    if "cells" in kinds:
        yield flat
        yield from cells(stored, queries, exact)
    if "graph" in kinds:
        yield graph(stored, queries, exact)


def flat_search(stored: np.ndarray, queries: np.ndarray) -> tuple[dict, np.ndarray]:
    """The row of exact search, one query at a time, and what it finds."""
    import faiss

    found = np.empty((len(queries), K), np.int64)
    few = range(20)
    times = [
        timed(lambda at=at: faiss.knn(queries[at : at + 1], stored, K, faiss.METRIC_INNER_PRODUCT))
        for at in few
    ]
    seconds = float(np.median([each for each, _ in times]))
    for block in blocks(len(queries), 50):
        found[block] = faiss.knn(queries[block], stored, K, faiss.METRIC_INNER_PRODUCT)[1]
    row = {"kind": "flat", "ms": 1e3 * seconds, "recall@10": 1.0, "build_seconds": 0.0,
           "bytes_per_vector": stored.shape[1] * 4}  # fmt: skip
    return row, found


def cells(stored: np.ndarray, queries: np.ndarray, exact: np.ndarray) -> Iterator[dict]:
    """IVF-PQ, a row for each number of probes; `codes`: read for a query."""
    import faiss

    count, width = stored.shape
    number = int(4 * count**0.5)
    quantizer = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFPQ(quantizer, width, number, width // 8, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, TRAINING_ROWS_PER_CELL
    sample = np.random.default_rng(0).choice(
        count, min(count, number * TRAINING_ROWS_PER_CELL), replace=False
    )
    training, _ = timed(lambda: index.train(stored[np.sort(sample)]))
    adding, _ = timed(lambda: [index.add(stored[block]) for block in blocks(count)])
    for probes in PROBES:
        options = faiss.SearchParametersIVF(nprobe=probes)

        def search(at, options=options):
            near = index.search(queries[at : at + 1], CANDIDATES, params=options)[1][0]
            near = near[near >= 0]
            return near[np.argsort(-(stored[near] @ queries[at]), kind="stable")[:K]]

        faiss.cvar.indexIVF_stats.reset()
        row = _measured(search, exact)
        # every query is asked twice
        codes = faiss.cvar.indexIVF_stats.ndis / (2 * len(queries))
        yield {"kind": "ivfpq", "probes": probes, "cells": number, "codes": codes, **row,
               "training_seconds": training, "build_seconds": adding,
               "bytes_per_vector": index.code_size + 8}  # fmt: skip


def graph(stored: np.ndarray, queries: np.ndarray, exact: np.ndarray) -> dict:
    """HNSW over float32 vectors."""
    import faiss

    count, width = stored.shape
    index = faiss.IndexHNSWFlat(width, EDGES, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_EFFORT
    building, _ = timed(lambda: [index.add(stored[block]) for block in blocks(count)])
    options = faiss.SearchParametersHNSW(efSearch=EFFORT)
    row = _measured(lambda at: index.search(queries[at : at + 1], K, params=options)[1][0], exact)
    edges = 4 * (
        index.hnsw.neighbors.size() + index.hnsw.levels.size() + 2 * index.hnsw.offsets.size()
    )
    return {"kind": "hnsw", **row, "build_seconds": building,
            "bytes_per_vector": 4 * width + edges / count}  # fmt: skip


def _measured(search: Callable[[int], np.ndarray], exact: np.ndarray) -> dict:
    """Median milliseconds of a query, and recall; the first round warms the caches."""
    for at in range(len(exact)):
        search(at)
    times = [timed(lambda at=at: search(at)) for at in range(len(exact))]
    shared = [len({*found} & {*right}) / K for (_, found), right in zip(times, exact, strict=True)]
    return {"ms": 1e3 * float(np.median([each for each, _ in times])), "recall@10": float(np.mean(shared))}  # fmt: skip


def timed(work: Callable) -> tuple[float, object]:
    """Seconds of this thread on the processor, and what it gave."""
    begin = time.thread_time()
    result = work()
    return time.thread_time() - begin, result


def blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


if __name__ == "__main__":
    raise SystemExit(main())
