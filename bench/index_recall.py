"""Recall and latency of every type of index against exact search: `python -m bench.index_recall`.

    python -m bench.index_recall                                # 50,000 vectors of 256 numbers
    python -m bench.index_recall --rows 1000000 --only float32

The vectors are made up: points of a 32-dimensional normal distribution in 256 dimensions, with
noise of a tenth of their variance, unit length; a query is a point of the same distribution. Exact
search in float32 says which ten are nearest; recall@10 is the share of them among the ten found.
Times are of the processor, of one thread, so that whoever else uses the machine does not count. A
search takes the median of one query at a time, and the time per query of 256 at once. The fused row
searches an index of both modes, gen having 0.7 of disc's points in it. Writes JSON and the table
between its markers in --page.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.environment import environment
from bench.pages import write_page
from bench.results import write

ROOT = Path(__file__).resolve().parent.parent
LATENT, NOISE, SHARED = 32, 0.1, 0.7
K, QUERIES, ALONE = 10, 256, 100
KINDS, DTYPES = ("flat", "hnsw", "ivfpq"), ("float32", "float16", "int8")


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    random = np.random.default_rng(0)
    made = Vectors(random, arguments.dimension)
    stored, asked = made.draw(arguments.rows), made.draw(QUERIES)
    kinds = [(kind, dtype) for kind in KINDS for dtype in DTYPES if arguments.only in (dtype, None)]
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        truth, rows = {}, []
        for kind, dtype in kinds:
            rows.append(measure(Path(folder), stored, asked, kind, dtype, ("gen",), "gen", truth))
            print(line(rows[-1]), flush=True)
        for kind in KINDS if arguments.fused else ():
            rows.append(
                measure(
                    Path(folder), stored, asked, kind, "float32", ("disc", "gen"), "fused", truth
                )
            )
            print(line(rows[-1]), flush=True)
    content = {
        "command": f"python -m bench.index_recall --rows {arguments.rows} --dimension {arguments.dimension}",
        "environment": environment(),
        "rows": rows,
    }
    write(arguments.json, content)
    write_page(arguments.page, page_text(content), "index-recall")
    return 0


class Vectors:
    """Draws items with one vector per mode, float32 [n, d] of unit length."""

    def __init__(self, random: np.random.Generator, dimension: int):
        self.random, self.dimension = random, dimension
        self.bases = {
            mode: random.standard_normal((LATENT, dimension)) / LATENT**0.5
            for mode in ("disc", "gen")
        }

    def draw(self, count: int) -> dict[str, np.ndarray]:
        points = {"disc": self.random.standard_normal((count, LATENT))}
        own = self.random.standard_normal((count, LATENT))
        points["gen"] = SHARED * points["disc"] + (1 - SHARED**2) ** 0.5 * own
        return {mode: self._vectors(points[mode] @ self.bases[mode]) for mode in points}

    def _vectors(self, vectors):
        vectors = vectors + NOISE**0.5 * self.random.standard_normal(vectors.shape)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)


def measure(
    folder: Path,
    stored: dict[str, np.ndarray],
    asked: dict[str, np.ndarray],
    kind: str,
    dtype: str,
    modes: tuple[str, ...],
    mode: str,
    truth: dict[str, list],
) -> dict:
    """One row. `truth` gets the results of the first index of a mode, which has to be flat float32."""
    from umer1.retrieval import VectorIndex
    from umer1.retrieval.library import faiss_library

    faiss_library().omp_set_num_threads(1)
    place = folder / "index"
    count, dimension = stored["gen"].shape
    made = VectorIndex.create(
        place, model="made up", dimension=dimension, modes=modes, kind=kind, dtype=dtype
    )
    begin = time.process_time()
    for start in range(0, count, 16384):
        part = slice(start, start + 16384)
        ids = [str(number) for number in range(start, min(part.stop, count))]
        made.add(ids, {name: stored[name][part] for name in modes})
    adding = time.process_time() - begin
    begin = time.process_time()
    made.optimize()
    optimizing = time.process_time() - begin
    size = made.describe()["bytes"]
    begin = time.process_time()
    index = VectorIndex.open(place)
    queries = {name: asked[name] for name in modes}
    index.search({name: array[:1] for name, array in queries.items()}, K, mode)
    opening = time.process_time() - begin
    alone = []
    for number in range(ALONE):
        one = {name: array[number : number + 1] for name, array in queries.items()}
        begin = time.process_time()
        index.search(one, K, mode)
        alone.append(time.process_time() - begin)
    begin = time.process_time()
    found = [[hit.number for hit in hits] for hits in index.search(queries, K, mode)]
    together = time.process_time() - begin
    exact = truth.setdefault(mode, found)
    shared = [len(set(a) & set(b)) / K for a, b in zip(exact, found, strict=True)]
    shutil.rmtree(place)
    return {
        "kind": kind,
        "dtype": dtype,
        "mode": mode,
        "rows": count,
        "dimension": dimension,
        "recall@10": statistics.fmean(shared),
        "ms_alone": 1e3 * statistics.median(alone),
        "ms_of_256": 1e3 * together / QUERIES,
        "seconds_adding": adding,
        "seconds_optimizing": optimizing,
        "seconds_opening": opening,
        "bytes": size,
    }


def line(row: dict) -> str:
    return (
        f"| {row['kind']} | {row['dtype']} | {row['mode']} | {row['recall@10']:.3f} "
        f"| {row['ms_alone']:.1f} | {row['ms_of_256']:.2f} | {row['seconds_adding']:.1f} "
        f"| {row['seconds_optimizing']:.0f} | {row['seconds_opening']:.1f} "
        f"| {row['bytes'] / 1e6:.0f} |"
    )


def page_text(content: dict) -> str:
    """The table, and on what it was measured."""
    on, first = content["environment"], content["rows"][0]
    head = (
        "| type | stored | mode | recall@10 | ms, one query | ms, each of 256 | s, adding "
        "| s, structure | s, opening | MB on disk |"
    )
    return "\n".join(
        [
            f"{first['rows']:,} vectors of {first['dimension']} numbers, `{content['command']}`; "
            f"processor time of one thread, {on['cpu']}, Python {on['python']}, "
            f"commit {(on['commit'] or 'unknown')[:12]}.",
            "",
            head,
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(line, content["rows"]),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.index_recall",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--only", choices=DTYPES, help="one way of storing; default: all")
    parser.add_argument("--fused", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work", type=Path, default=None, help="where indexes are made")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "search" / "index_recall.json")  # fmt: skip
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "search.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
