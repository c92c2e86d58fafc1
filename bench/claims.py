"""What the kernel library is meant to reach, as data, and whether a result file shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.case import OURS
from bench.runner import Row
from bench.training.table import mfu

GIB = 2**30


@dataclass(frozen=True)
class Claim:
    """`read(row)` of this variant's row in this case is to be at least (or at most) `wanted`."""

    device: str
    suite: str
    case: str
    what: str
    read: Callable[[Row], float | None]
    wanted: float
    at_least: bool
    variant: str = OURS

    def met(self, value: float) -> bool:
        return value >= self.wanted if self.at_least else value <= self.wanted


class Verdict(NamedTuple):
    """`measured` is None where the row or the figure is missing; `reason` then says why."""

    claim: Claim
    measured: float | None
    reason: str


def verdicts(rows: list[Row], device: str) -> list[Verdict]:
    """Every claim of this device, in order."""
    ours = {
        (row["suite"], row["case"], row["variant"]): row for row in rows if row["device"] == device
    }
    found = []
    for claim in (claim for claim in CLAIMS if claim.device == device):
        row = ours.get((claim.suite, claim.case, claim.variant))
        if row is None:
            found.append(Verdict(claim, None, "not measured yet"))
        elif row["status"] != "ok":
            found.append(Verdict(claim, None, row["status"]))
        else:
            value = claim.read(row)
            found.append(
                Verdict(claim, value, "" if value is not None else "nothing to compare with")
            )
    return found


def _floor(row: Row) -> float | None:
    return row.get("percent_of_floor")


def _best_peer(row: Row) -> float | None:
    return row.get("time_to_best_peer")


def _memory(row: Row) -> float | None:
    return row.get("peak_to_baseline")


def _total_gib(row: Row) -> float | None:
    if row.get("peak_bytes") is None:
        return None
    return (row["peak_bytes"] + row["input_bytes"] + row["result_bytes"]) / GIB


def _of_peak(row: Row) -> float | None:
    return mfu(row) if "flop" in row["sizes"] else row.get("percent_of_peak")


def _milliseconds(row: Row) -> float | None:
    return row.get("median_ms")


def _gradient_error(row: Row) -> float | None:
    return max((value for name, value in row["errors"].items() if name != "output"), default=None)


def _speedup(*endings: str) -> Callable[[Row], float | None]:
    """Over the fastest of the peers whose name ends so."""

    def read(row: Row) -> float | None:
        peers = row.get("speedup", {})
        return min((peers[name] for name in peers if name.endswith(endings)), default=None)

    return read


def _speedup_over(start: str) -> Callable[[Row], float | None]:
    """Over the fastest of the peers whose name begins so: a recipe at its best batch size."""

    def read(row: Row) -> float | None:
        peers = row.get("speedup", {})
        return min((peers[name] for name in peers if name.startswith(start)), default=None)

    return read


def _claims(
    device: str, suite: str, case: str, variant: str = OURS, **wanted: float
) -> list[Claim]:
    """One claim per keyword; all but the errors come from the table of aims in docs/performance.md."""
    kinds = {
        "floor": ("% of floor", _floor, True),
        "milliseconds": ("ms", _milliseconds, False),
        "peer": ("time / best peer", _best_peer, False),
        "memory": ("peak memory / eager's", _memory, False),
        "total_gib": ("GiB in all", _total_gib, False),
        "over_eager": ("times faster than eager", _speedup("eager"), True),
        "over_compacted_eager": (
            "times faster than eager on compacted rows",
            _speedup("eager-compacted"),
            True,
        ),
        "over_compacted": (
            "times faster than the best peer on compacted rows",
            _speedup("-compacted"),
            True,
        ),
        "over_compile": (
            "times faster than torch.compile",
            _speedup("compile", "compile-compacted"),
            True,
        ),
        "over_liger": ("times faster than Liger", _speedup("liger"), True),
        "over_loop": ("times faster than the released loop", _speedup("released-loop"), True),
        "over_graph": (
            "times faster than vectorised torch, both in a graph",
            _speedup("vectorised-graph"),
            True,
        ),
        "over_released": (
            "times faster than the released recipe",
            _speedup_over("released"),
            True,
        ),
        "over_generate": ("times faster than generate() alone", _speedup_over("generate"), True),
        "over_flat": ("times faster than a prompt for every row", _speedup("flat"), True),
        "memory_share": ("peak memory / the released recipe's", _memory, False),
        "error": ("relative gradient error", _gradient_error, False),
        "mfu": ("% of the GPU's peak (MFU)", _of_peak, True),
    }
    return [
        Claim(device, suite, case, kinds[kind][0], kinds[kind][1], value, kinds[kind][2], variant)
        for kind, value in wanted.items()
    ]


_GENERATE, _COMPOSED = "engine_generate", "engine_composed"
_CE, _GRPO = "linear_cross_entropy", "grpo_loss"
_EXACT = {"error": 4e-3}
CLAIMS = [
    *_claims("cpu", "info_nce", "one-way-4096-bf16", floor=85, peer=1.1, memory=1 / 2, **_EXACT),
    *_claims("cpu", "info_nce", "symmetric-4096-bf16", floor=85, peer=1.1, memory=1 / 2, **_EXACT),
    *_claims("cpu", "info_nce", "one-way-16384-bf16", floor=80, memory=1 / 8, **_EXACT),
    *_claims("cpu", "info_nce", "symmetric-16384-bf16", floor=80, memory=1 / 8, **_EXACT),
    *_claims("cpu", "info_nce", "one-way-32768-bf16", memory=1 / 16, **_EXACT),
    *_claims("cpu", "info_nce", "one-way-4096-fp32", peer=1.05, memory=1 / 2),
    *_claims("cpu", "info_nce", "symmetric-4096-fp32", peer=1.05, memory=1 / 2),
    *_claims("cpu", _CE, "t2048-2b-ignored-70-bf16",
             over_compacted_eager=1.2, floor=85, memory=1 / 10, **_EXACT),
    *_claims("cpu", _CE, "t2048-2b-ignored-0-bf16", floor=85, peer=1.0, memory=1 / 3, **_EXACT),
    *_claims("cpu", _GRPO, "t2048-2b-completion-40-bf16",
             over_compacted=1.2, floor=80, memory=1 / 6, **_EXACT),
    *_claims("cpu", "linear_logprob", "t2048-2b-completion-40-gradient-bf16", **_EXACT),
    *_claims("cpu", "group_reward", "n16-g8-d1536-fp32", over_loop=20),
    *[claim for kind in ("image-64", "image-256") for claim in (
        *_claims("cpu", _GENERATE, f"queries-32-0.1b-{kind}-bf16",
                 over_released=3, over_generate=1.5),
        *_claims("cpu", _GENERATE, f"rollouts-4x8-0.1b-{kind}-bf16", over_released=6),
    )],
    *[claim for kind, queries, rollouts in (("image-64", 2, 4), ("image-256", 1.5, 5))
      for claim in (
        *_claims("cpu", _COMPOSED, f"queries-32-2b-{kind}-bf16", over_released=queries),
        *_claims("cpu", _COMPOSED, f"rollouts-4x8-2b-{kind}-bf16", over_released=rollouts),
    )],
    *_claims("cpu", "engine_decode", "2b-b1-bf16", over_generate=1.8),
    *_claims("cpu", "engine_decode", "2b-b4-bf16", over_generate=1.8),
    *_claims("cpu", "engine_decode", "2b-b16-bf16", over_generate=1.3),
    *_claims("cpu", "engine_memory", "b8-t512-0.1b-bf16", memory_share=1 / 3),
    *_claims("cpu", "engine_memory", "b8-t512-2b-bf16", memory_share=1 / 3),
    *_claims("cpu", "engine_disc", "mixed-64-0.1b-bf16", over_released=1.3),
    *_claims("cpu", "eval_mini", "gen-40-tiny-fp32", over_released=3),
    *_claims("cpu", "train_sft", "pairs-8-0.1b-bf16", over_released=2),
    *_claims("cpu", "train_sft", "memory-8-0.1b-bf16", memory_share=1 / 2),
    *_claims("cpu", "train_rl", "rollouts-2x8-0.1b-bf16", over_released=4),
    # the order of a device's aims is that of their importance: `make gpu` measures the first ones first
    *_claims("cuda", "dual_info_nce", "dual-1024-1536-bf16", "umer1-cuda-whole-graph",
             milliseconds=0.045, over_eager=8, floor=50, **_EXACT),
    *_claims("cuda", "group_reward", "n16-g8-d1536-fp32", "umer1-cuda", over_loop=50),
    *_claims("cuda", "group_reward", "n16-g8-d1536-fp32", "umer1-cuda-graph", over_graph=5),
    *_claims("cuda", "gather_hidden", "slots256-h1536-bf16", "umer1-cuda-graph",
             milliseconds=0.003),
    *[claim for head, floor in (("7b", 85), ("2b", 78)) for claim in (
        *_claims("cuda", _CE, f"t8192-{head}-ignored-0-bf16",
                 floor=floor, over_liger=1, over_compile=1, **_EXACT),
        *_claims("cuda", _CE, f"t8192-{head}-ignored-70-bf16",
                 floor=floor, over_liger=1, over_compile=1, **_EXACT),
        *_claims("cuda", _GRPO, f"t8192-{head}-completion-40-bf16",
                 floor=floor, over_liger=1, over_compile=1, **_EXACT),
    )],
    *_claims("cuda", "info_nce", "one-way-16384-bf16", floor=85, **_EXACT),
    *_claims("cuda", "info_nce", "symmetric-16384-bf16", floor=85, **_EXACT),
    *_claims("cuda", "info_nce", "one-way-65536-bf16", floor=85, over_eager=1.2, **_EXACT),
    *_claims("cuda", "info_nce", "symmetric-65536-bf16", floor=85, over_eager=1.2, **_EXACT),
    *_claims("cuda", "info_nce", "one-way-262144-bf16", total_gib=20, **_EXACT),
    *_claims("cuda", "info_nce", "symmetric-262144-bf16", total_gib=20, **_EXACT),
    *_claims("cuda", "info_nce", "one-way-1048576-bf16", total_gib=40, **_EXACT),
    *[claim for rows in (8, 64, 256)
      for claim in _claims("cuda", "engine_decode", f"2b-b{rows}-bf16", floor=75)],
    *_claims("cuda", _GENERATE, "queries-64-2b-image-256-bf16", over_released=30),
    *_claims("cuda", "engine_decode", "2b-b256-p1000-g8-bf16", over_flat=1.7),
    *_claims("cuda", "engine_phases", "prompts-32x256-2b-bf16", mfu=45),
    *_claims("cuda", "train_sft", "pairs-16-2b-bf16", over_released=2.5, mfu=45),
    *_claims("cuda", "train_sft", "memory-16-2b-bf16", memory_share=1 / 2),
    *_claims("cuda", "train_rl", "rollouts-4x8-2b-bf16", over_released=8),
]  # fmt: skip
