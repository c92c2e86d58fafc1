"""The engine in the report: every measured case, and where the time of one query goes."""

from __future__ import annotations

from bench.case import OURS
from bench.engine.composed import one_query
from bench.report_text import Found, by_place, markdown, not_measured
from bench.results import MIB, number
from bench.runner import Row


def engine_table(found: Found) -> str:
    """Every variant of the engine's cases: time, rates, how often ours goes into it, memory, error of the vectors."""
    order = ("generate", "composed", "decode", "phases", "disc", "memory")
    rank = {f"engine_{name}": place for place, name in enumerate(order)} | {"eval_mini": len(order)}
    own = [row for row in found.rows if row["suite"] in rank]
    own.sort(key=lambda row: rank[row["suite"]])
    ours = {(row["suite"], row["case"]): row for row in own if row["variant"] == OURS}

    def cells(row: Row) -> tuple[str, ...]:
        return _engine_cells(row, ours.get((row["suite"], row["case"]), {}))

    return by_place(own, found.device, ENGINE_HEADER, cells)


def query_table(found: Found) -> str:
    """Where the time of one query of 256 visual tokens and 96 written ones goes, beside what bounds it."""
    parts = one_query(found.rows, found.device)
    if not parts:
        return not_measured(found.device)
    lines = [(part.name, number(part.milliseconds), part.bound) for part in parts]
    total = sum(part.milliseconds for part in parts)
    return markdown(("part", "ms", "beside its floor"), [*lines, ("the query", number(total), "")])


ENGINE_HEADER = (
    "case", "variant", "ms (p20 to p80)", "embeddings/s", "tokens/s", "times ours", "peak MiB", "/ recipe",
    "vectors off by",
)  # fmt: skip


def _engine_cells(row: Row, ours: Row) -> tuple[str, ...]:
    name = f"**{row['variant']}**" if row["variant"] == OURS else row["variant"]
    case = f"{row['suite'].removeprefix('engine_')} {row['case']}"
    if row["status"] != "ok":
        return (case, name, row["status"], *["–"] * (len(ENGINE_HEADER) - 3))
    time, peak, sizes = row.get("median_ms"), row.get("peak_bytes"), row["sizes"]
    spread = f" ({number(row['p20_ms'])} to {number(row['p80_ms'])})" if "p20_ms" in row else ""
    speedup = ours.get("speedup", {}).get(row["variant"])
    rates = [sizes[kind] * 1e3 / time if time and kind in sizes else None
             for kind in ("embeddings", "tokens")]  # fmt: skip
    worst = max(row["errors"].values(), default=None)
    return (
        case,
        name,
        number(time) + spread,
        *map(number, rates),
        number(speedup, 2),
        number(None if peak is None else peak / MIB, 1),
        number(row.get("peak_to_baseline"), 3),
        "-" if worst is None else f"{worst:.1e}",
    )
