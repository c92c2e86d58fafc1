"""The 2B workloads, composed of measured parts: run whole they would take hours.

    ours    distinct prompts x (tower + prefill), then one decode step for every place in the longest answer, each at the
            number of rows that are still writing there
    theirs  rows x (tower + prefill), then for every batch the steps of its longest row, all at the batch's size; the best
            of several batch sizes counts

A decode step between measured numbers of rows lies on the line between them. All steps count as at 256 tokens of context.
Tower and prefill are measured for one prompt: both sides are bound by arithmetic there, and batching padded prompts would
only add to the peer's. What a padded batch wastes on short prompts, and what keeping hidden states of a prefill costs, is
left out in the peer's favour.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.case import OURS
from bench.engine.workload import MEAN_LENGTH, lognormal_lengths
from bench.runner import Row

SUITE = "engine_composed"
SIZE = "2b"
WORKLOADS = {"queries-32": (32, 1), "rollouts-4x8": (4, 8)}
VISUAL = (64, 256)
BATCHES = (4, 8, 16, 32)
PEERS = ("released", "generate")


def case_name(workload: str, visual: int) -> str:
    return f"{workload}-{SIZE}-image-{visual}-bf16"


def composed(rows: list[Row]) -> list[Row]:
    """One row per workload and variant; none where a part was not measured."""
    found = []
    for name, (prompts, samples) in WORKLOADS.items():
        for visual in VISUAL:
            try:
                found += _rows(_Parts(rows, visual), case_name(name, visual), prompts, samples)
            except KeyError:
                continue
    return found


class _Parts:
    """Measured milliseconds; KeyError for a part that is missing."""

    def __init__(self, rows: list[Row], visual: int):
        good = [row for row in rows if row["device"] == "cpu" and row.get("median_ms")]
        times = {(row["suite"], row["case"], row["variant"]): row for row in good}
        self.visual = visual
        self.prompt = {
            variant: sum(
                times["engine_phases", f"{part}-{visual}-{SIZE}-bf16", variant]["median_ms"]
                for part in ("vision", "prefill")
            )
            for variant in (OURS, "transformers")
        }
        self.step = {
            variant: {
                row["sizes"]["B"]: row["median_ms"]
                for (suite, case, who), row in times.items()
                if suite == "engine_decode" and case.startswith(f"{SIZE}-") and who == variant
            }
            for variant in (OURS, *PEERS)
        }
        for steps in self.step.values():
            for batch in (1, *BATCHES):
                steps[batch]  # noqa: B018
        self.place = times["engine_phases", f"vision-{visual}-{SIZE}-bf16", OURS]

    def at(self, variant: str, rows: int) -> float:
        """Milliseconds of a step at any number of rows."""
        steps = self.step[variant]
        above = min((size for size in steps if size >= rows), default=max(steps))
        below = max((size for size in steps if size <= rows), default=min(steps))
        if above == below:
            return steps[above] * rows / above if rows > above else steps[above]
        share = (rows - below) / (above - below)
        return steps[below] + share * (steps[above] - steps[below])


class Part(NamedTuple):
    """One part of a query. `bound`: how near it is to what bounds it, in words."""

    name: str
    milliseconds: float
    bound: str


def one_query(rows: list[Row], device: str, visual: int = 256) -> list[Part]:
    """Tower, prefill and the steps of one query alone at the 2B shape, an answer of mean length; [] if not measured."""
    ours = {
        (row["suite"], row["case"]): row
        for row in rows
        if row["device"] == device and row["variant"] == OURS and row.get("median_ms")
    }
    steps = MEAN_LENGTH - 1  # the first token comes with the prefill
    wanted = (
        (f"vision tower, {visual} visual tokens", "engine_phases", f"vision-{visual}-{SIZE}-bf16", 1),
        ("prefill", "engine_phases", f"prefill-{visual}-{SIZE}-bf16", 1),
        (f"{steps} decode steps", "engine_decode", f"{SIZE}-b1-bf16", steps),
    )  # fmt: skip
    try:
        return [
            Part(name, times * ours[suite, case]["median_ms"], _bound(ours[suite, case]))
            for name, suite, case, times in wanted
        ]
    except KeyError:
        return []


def _bound(row: Row) -> str:
    if row.get("percent_of_peak"):
        return f"{row['percent_of_peak']:.0f} % of the peak of its arithmetic"
    if row.get("percent_of_floor"):
        return f"{row['percent_of_floor']:.0f} % of {row['floor']}"
    return "–"


def our_time(parts: _Parts, prompts: int, lengths: list[int]) -> float:
    """Milliseconds; the first token comes with the prefill, so a row of n tokens has n - 1 steps."""
    steps = (
        parts.at(OURS, sum(length - 1 >= place for length in lengths))
        for place in range(1, max(lengths))
    )
    return prompts * parts.prompt[OURS] + sum(steps)


def their_time(parts: _Parts, variant: str, batch: int, lengths: list[int]) -> float:
    time = len(lengths) * parts.prompt["transformers"]
    for start in range(0, len(lengths), batch):
        part = lengths[start : start + batch]
        time += (max(part) - 1) * parts.at(variant, len(part))
    return time


def _rows(parts: _Parts, case: str, prompts: int, samples: int) -> list[Row]:
    lengths = lognormal_lengths(prompts * samples)
    times = {OURS: our_time(parts, prompts, lengths)}
    for variant in PEERS:
        for batch in BATCHES:
            times[f"{variant}-b{batch}"] = their_time(parts, variant, batch, lengths)
    best = min((name for name in times if name != OURS), key=times.get)
    common = {
        **{name: parts.place[name] for name in PROVENANCE},
        "suite": SUITE,
        "case": case,
        "sizes": {"model": SIZE, "prompts": prompts, "samples": samples,
                  "embeddings": prompts * samples, "tokens": sum(lengths)},
        "status": "ok",
        "errors": {},
        "best_peer": best,
    }  # fmt: skip
    rows = [
        common | {"variant": name, "median_ms": time, "time_to_best_peer": time / times[best]}
        for name, time in times.items()
    ]
    rows[0] |= {
        "speedup": {name: time / times[OURS] for name, time in times.items() if name != OURS},
        "plan": "composed of measured parts: bench/engine/composed.py",
    }
    return rows


PROVENANCE = ("dtype", "device", "hardware", "torch", "triton", "python", "threads", "commit")
