"""From measured rates to very many items: the arithmetic of docs/billions.md, without its words.

Every assumption is a field of `Assumptions`; everything else is read from result files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.case import OURS
from bench.engine.composed import case_name, composed
from bench.engine.workload import MEAN_LENGTH
from bench.runner import Row

VISUAL = (64, 256)


@dataclass(frozen=True)
class Assumptions:
    """What no measurement here says.

    items: to embed. days: in which it has to be done. cores, memory_gb, memory_bandwidth (bytes/s): of a CPU machine to search on.
    cores_embed: of one to embed on. threads: of what was measured. answer_bytes: of reasoning and summary, as UTF-8. share: of a GPU's bounds that
    is reached. products, bandwidth: those bounds (FLOP/s in bfloat16 products, bytes/s), an H200's. batch: rows
    decoded together. context: tokens that a decoded token sees. queries: per second.
    """

    items: float = 1e9
    days: float = 30
    cores_embed: int = 64
    cores: int = 64
    memory_gb: float = 512
    memory_bandwidth: float = 400e9
    threads: int = 2
    answer_bytes: float = 4.0 * MEAN_LENGTH
    share: float = 0.5
    products: float = 790e12
    bandwidth: float = 4.3e12
    batch: int = 256
    context: int = 400
    shard_items: int = 1024
    queries: float = 100


class Rate(NamedTuple):
    """Items per second of one `machine`; `source`: where that is from."""

    mode: str
    visual: int
    machine: str
    items_per_second: float
    source: str

    def machine_days(self, items: float) -> float:
        return items / self.items_per_second / 86_400


def measured_rates(rows: list[Row]) -> list[Rate]:
    """At the 2B shape: composed of measured parts on the CPU, whole workloads on CUDA if they were measured."""
    found = []
    times = {(row["suite"], row["case"]): row for row in [*rows, *composed(rows)]
             if row["variant"] == OURS and row.get("median_ms")}  # fmt: skip
    for visual in VISUAL:
        parts = [times.get(("engine_phases", f"{part}-{visual}-2b-bf16")) for part in ("vision", "prefill")]  # fmt: skip
        if all(part and part["device"] == "cpu" for part in parts):
            rate = 1e3 / sum(part["median_ms"] for part in parts)
            found.append(Rate("disc", visual, _machine(parts[0]), rate, "engine_phases: tower + prefill"))  # fmt: skip
        whole = times.get(("engine_composed", case_name("queries-32", visual)))
        if whole:
            source = "engine_composed: 32 queries, tower + prefill + decode steps"
            found.append(Rate("gen", visual, _machine(whole), _rate(whole), source))
    for row in times.values():
        if row["device"] == "cuda" and row["sizes"].get("model") == "2b" and "embeddings" in row["sizes"]:  # fmt: skip
            kind = str(row["sizes"].get("kinds", ""))
            if row["suite"] == "engine_generate" and kind.startswith("image-") and row["sizes"]["samples"] == 1:  # fmt: skip
                visual = int(kind.removeprefix("image-"))
                found.append(Rate("gen", visual, _machine(row), _rate(row), "engine_generate"))
    return found


def scaled(rate: Rate, assumed: Assumptions) -> Rate:
    """A CPU's rate on a machine with more cores."""
    factor = assumed.cores_embed / assumed.threads
    source = f"assumed: {factor:.0f} times the rate of {assumed.threads} cores"
    return rate._replace(
        machine=f"{assumed.cores_embed} cores",
        items_per_second=rate.items_per_second * factor,
        source=source,
    )


def calculated_rates(assumed: Assumptions) -> list[Rate]:
    """Of a GPU by its bounds: products for tower and prefill, bytes for decoding."""
    import torch

    from bench.engine.flops import prefill_flop, vision_flop
    from bench.engine.shapes import config, disc_position, prompt
    from umer1.model import Qwen2VL

    shape = config("2b")
    with torch.device("meta"):
        model = Qwen2VL(shape).to(torch.bfloat16)
    decoder = sum(each.numel() for each in model.decoder.layers.parameters()) + model.head_weight.numel()  # fmt: skip
    kept = 2 * 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    step = (2 * decoder / assumed.batch + kept * assumed.context) / assumed.bandwidth
    found = []
    for visual in VISUAL:
        sequence = prompt(shape, f"image-{visual}", seed=0)
        head = sequence.head(disc_position(shape, sequence) + 1)
        tower = vision_flop(model, sequence)
        seconds = {
            "disc": (tower + prefill_flop(model, head)) / assumed.products,
            "gen": (tower + prefill_flop(model, sequence)) / assumed.products + MEAN_LENGTH * step,
        }
        for mode, bound in seconds.items():
            rate = assumed.share / bound
            found.append(Rate(mode, visual, "H200", rate, f"calculated: {100 * assumed.share:.0f} % of its bounds"))  # fmt: skip
    return found


class Stored(NamedTuple):
    what: str
    bytes_per_item: float


def storage(dimension: int, assumed: Assumptions) -> list[Stored]:
    """What the output of a run takes."""
    return [
        Stored("disc, float32", 4 * dimension),
        Stored("gen, float32", 4 * dimension),
        Stored("reasoning and summary, uncompressed", assumed.answer_bytes),
        Stored("number, id of 32 bytes, finish, tokens", 8 + 32 + 7 + 4),
    ]


class Search(NamedTuple):
    """`core_ms`: of a query; `build_core_hours`: of the whole index."""

    kind: str
    dimension: int
    bytes_per_item: float
    core_ms: float
    build_core_hours: float


class SearchCosts:
    """What one core needs by the number of vectors, fitted to `python -m bench.billions_search`."""

    def __init__(self, rows: list[dict]):
        largest = max(row["rows"] for row in rows if row["kind"] == "ivfpq")
        self.dimension = rows[0]["dimension"]
        self.flat = max((row for row in rows if row["kind"] == "flat"), key=lambda row: row["rows"])
        self.cells = {row["probes"]: row for row in rows if row["kind"] == "ivfpq" and row["rows"] == largest}  # fmt: skip
        self.graphs = sorted((row for row in rows if row["kind"] == "hnsw"), key=lambda row: row["rows"])  # fmt: skip

    @property
    def flat_bytes_per_second(self) -> float:
        return self.flat["rows"] * self.flat["bytes_per_vector"] / (self.flat["ms"] / 1e3)

    @property
    def code_ms(self) -> float:
        """Of one code: the slope between few and many probes."""
        few, many = self.cells[min(self.cells)], self.cells[max(self.cells)]
        return (many["ms"] - few["ms"]) / (many["codes"] - few["codes"])

    @property
    def cell_ms(self) -> float:
        """Of one cell's centroid, and what a query costs besides: what is left without the codes."""
        few = self.cells[min(self.cells)]
        return max(few["ms"] - self.code_ms * few["codes"], 0.0) / few["cells"]

    def flat_at(self, items: float, dimension: int, width: int = 4) -> Search:
        """width: bytes of a number."""
        size = dimension * width
        # what is read bounds it: half the bytes, half the time
        ms = 1e3 * items * size / self.flat_bytes_per_second
        return Search(f"flat, float{8 * width}", dimension, size, ms, 0.0)

    def cells_at(self, items: float, dimension: int, probes: int) -> Search:
        """A code has a byte for 8 numbers; centroids and codes cost in proportion to their size."""
        row, wide = self.cells[max(self.cells)], dimension / self.dimension
        cells = int(4 * math.sqrt(items))
        uneven = row["codes"] / (row["probes"] / row["cells"] * row["rows"])
        codes = uneven * probes / cells * items
        ms = wide * (self.cell_ms * cells + self.code_ms * codes)
        grown = cells / row["cells"]
        adding = row["build_seconds"] / row["rows"] * grown * items
        hours = wide * (row["training_seconds"] * grown**2 + adding) / 3600
        return Search(f"IVF-PQ, {probes} probes", dimension, dimension / 8 + 8, ms, hours)

    def graph_at(self, items: float, dimension: int) -> Search:
        """Time grows with the logarithm of the number, and with the bytes of a vector."""
        wide = dimension / self.dimension
        edges = self.graphs[-1]["bytes_per_vector"] - 4 * self.dimension
        ms = wide * self._grown(items, lambda row: row["ms"])
        adding = wide * self._grown(items, lambda row: row["build_seconds"] / row["rows"])
        return Search("HNSW, float32", dimension, 4 * dimension + edges, ms, adding * items / 3600)

    def _grown(self, items: float, read) -> float:
        counts = np.log([row["rows"] for row in self.graphs])
        slope, base = np.polyfit(counts, [read(row) for row in self.graphs], 1)
        # a noisy fit must not fall with the number
        return max(slope, 0.0) * math.log(items) + (base if slope > 0 else read(self.graphs[-1]))


def machines_for(search: Search, assumed: Assumptions) -> tuple[int, int]:
    """CPU machines that hold the index in memory, and those that answer the queries; the larger is needed."""
    hold = math.ceil(search.bytes_per_item * assumed.items / (assumed.memory_gb * 1e9))
    seconds = search.core_ms / 1e3 / assumed.cores
    if search.kind.startswith("flat"):
        seconds = max(seconds, search.bytes_per_item * assumed.items / assumed.memory_bandwidth)
    return hold, math.ceil(seconds * assumed.queries)


def _rate(row: Row) -> float:
    return row["sizes"]["embeddings"] / (row["median_ms"] / 1e3)


def _machine(row: Row) -> str:
    return (
        row["hardware"] if row["device"] == "cuda" else f"{row['hardware']}, {row['threads']} cores"
    )
