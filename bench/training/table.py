"""What the training suites' rows say: rates, utilisation, and what the whole recipe would cost."""

from __future__ import annotations

from bench.case import OURS
from bench.peaks import PEAKS, utilization
from bench.results import MIB, number
from bench.runner import Row

HEADER = (
    "case", "variant", "s per step (p20 to p80)", "pairs/s", "tokens/s", "times ours", "MFU %", "peak MiB", "/ released",
    "off by",
)  # fmt: skip
RECIPE_HEADER = (
    "stage", "pairs", "pairs/s", "H200-hours", "H200-hours of the release's step", "released, H20-hours",
    "the same at an H200's peak",
)  # fmt: skip
# optimizer steps x pairs of each, and GPU-hours, of the released 2B run
RECIPE = {
    "train_sft": ("SFT", 5000 * 1024, 2336),
    "train_rl": ("RL", 344 * 32, 1344),
}


def mfu(row: Row) -> float | None:
    """Percent of the device's peak that went into operations a step needs; None for devices without a known peak."""
    if not row.get("median_ms"):
        return None
    return utilization(row["sizes"]["flop"], row["median_ms"] / 1e3, row["hardware"])


def cells(row: Row, ours: Row) -> tuple[str, ...]:
    name = f"**{row['variant']}**" if row["variant"] == OURS else row["variant"]
    case = f"{row['suite'].removeprefix('train_')} {row['case']}"
    if row["status"] != "ok":
        return (case, name, row["status"], *["–"] * (len(HEADER) - 3))
    time, peak = row.get("median_ms"), row.get("peak_bytes")
    spread = "-"
    if time:
        low, high = (number(row[end] / 1e3) for end in ("p20_ms", "p80_ms"))
        spread = f"{number(time / 1e3)} ({low} to {high})"
    rates = [row["sizes"][kind] * 1e3 / time if time else None for kind in ("pairs", "tokens")]
    worst = max(row["errors"].values(), default=None)
    return (
        case,
        name,
        spread,
        *map(number, rates),
        number(ours.get("speedup", {}).get(row["variant"]), 2),
        number(mfu(row), 0),
        number(None if peak is None else peak / MIB, 0),
        number(row.get("peak_to_baseline"), 3),
        "-" if worst is None else f"{worst:.1e}",
    )


def recipe_lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """The 2B recipe from one GPU's rates; stages that were not measured are left out."""
    found = []
    for suite, (stage, pairs, released_hours) in RECIPE.items():
        own = [row for row in rows if row["suite"] == suite and row["sizes"]["model"] == "2b"]
        rates = {
            row["variant"]: row["sizes"]["pairs"] * 1e3 / row["median_ms"]
            for row in own
            if row.get("median_ms") and "H200" in row["hardware"]
        }
        if OURS not in rates:
            continue
        peers = [rate for name, rate in rates.items() if name != OURS]
        theirs = number(_hours(pairs, max(peers))) if peers else "-"
        converted = released_hours * PEAKS["H20"] / PEAKS["H200"]
        found.append((
            stage, f"{pairs:,}", number(rates[OURS]), number(_hours(pairs, rates[OURS])), theirs, str(released_hours),
            number(converted),
        ))  # fmt: skip
    return found


def _hours(pairs: int, rate: float) -> float:
    return pairs / rate / 3600
