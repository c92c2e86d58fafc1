"""What became of every side and pair, in counts, as JSON and as a table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from umer1.data.annotation.filters import KINDS, Dropped, Filters, Kept
from umer1.data.annotation.sides import SIDES

EXAMPLES = 3  # kept of each kind
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No request brought an answer, or none was made."""

    kind: str
    detail: str


class Statistics:
    """Counts over pairs; `add` takes the verdicts on one pair's query and target."""

    def __init__(self):
        self.kept = 0
        self._sides = {side: Counter() for side in SIDES}  # (group, kind, detail) -> sides
        self._sources: dict[str, Counter] = defaultdict(Counter)
        self._counted_by, self._boxes = Counter(), 0
        self._tokens: list[int] = []
        self._characters: dict[str, list[int]] = {"reasoning": [], "summary": []}
        self._examples: dict[str, list[dict]] = defaultdict(list)

    def add(self, source: str, verdicts: list[Kept | Dropped | Unanswered], where: str) -> None:
        for side, verdict in zip(SIDES, verdicts, strict=True):
            if isinstance(verdict, Kept):
                self._sides[side]["kept", "", ""] += 1
                self._counted_by[verdict.counted_by] += 1
                self._boxes += verdict.had_box
            else:
                # reasons hold the text of single records; counted are kinds of them
                group = "dropped" if isinstance(verdict, Dropped) else "unanswered"
                detail = verdict.detail if group == "dropped" else ""
                self._sides[side][group, verdict.kind, detail] += 1
                self._example(verdict, f"{where}, {side}")
        row = self._sources[source]
        row["pairs"] += 1
        bad = [verdict for verdict in verdicts if not isinstance(verdict, Kept)]
        if not bad:
            self.kept += 1
            row["kept"] += 1
            for verdict in verdicts:
                self._tokens.append(verdict.tokens)
                self._characters["reasoning"].append(len(verdict.reasoning))
                self._characters["summary"].append(len(verdict.summary))
            return
        # a pair without an answer may still get one; else the first side's reason is the pair's
        waiting = any(isinstance(verdict, Unanswered) for verdict in bad)
        row["unanswered" if waiting else bad[0].kind] += 1

    def _example(self, verdict: Dropped | Unanswered, where: str) -> None:
        examples = self._examples[verdict.kind]
        if len(examples) < EXAMPLES:
            told = verdict.detail
            reason = told if told.startswith(where) else f"{where}: {told}"
            examples.append({"kind": verdict.kind, "reason": reason})

    def to_dict(self, filters: Filters) -> dict[str, Any]:
        rows = {}
        for name, row in self._sources.items():
            dropped = {kind: row[kind] for kind in KINDS if row[kind]}
            rows[name] = {
                "pairs": row["pairs"],
                "kept": row["kept"],
                "dropped": dropped,
                "unanswered": row["unanswered"],
            }
        return {
            "filters": asdict(filters),
            "pairs": sum(row["pairs"] for row in rows.values()),
            "kept": self.kept,
            "dropped": dict(sum((Counter(row["dropped"]) for row in rows.values()), Counter())),
            "unanswered": sum(row["unanswered"] for row in rows.values()),
            "sides": {side: _by_group(counts) for side, counts in self._sides.items()},
            "sources": rows,
            "reasoning_tokens": _percentiles(self._tokens),
            "reasoning_characters": _percentiles(self._characters["reasoning"]),
            "summary_characters": _percentiles(self._characters["summary"]),
            "tokens_counted_by": dict(self._counted_by),
            "sides_with_box": self._boxes,
            "examples": [one for examples in self._examples.values() for one in examples],
        }


def _by_group(counts: Counter) -> dict[str, Any]:
    told: dict[str, Any] = {"kept": counts["kept", "", ""], "dropped": {}, "unanswered": {}}
    for (group, kind, detail), count in counts.most_common():
        if group == "dropped":
            told["dropped"].setdefault(kind, {})[detail] = count
        elif group == "unanswered":
            told["unanswered"][kind] = count
    return told


def _percentiles(values: list[int]) -> dict[str, int] | None:
    if not values:
        return None
    found = np.percentile(np.array(values, np.int64), PERCENTILES).round().astype(int)
    named = {f"p{name}": int(value) for name, value in zip(PERCENTILES, found, strict=True)}
    return named | {"mean": round(sum(values) / len(values)), "max": max(values)}


def lines(content: dict[str, Any]) -> Iterator[str]:
    """The statistics for people."""
    columns = ("source", "pairs", "kept", *KINDS, "unanswered")
    rows = [columns]
    for name, row in content["sources"].items():
        rows.append(_row(name, row))
    rows.append(_row("all", content))
    widths = [max(len(str(row[place])) for row in rows) for place in range(len(columns))]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([f"{row[0]:<{widths[0]}}", *cells])
    yield ""
    for side, counts in content["sides"].items():
        dropped = {kind: sum(details.values()) for kind, details in counts["dropped"].items()}
        total = counts["kept"] + sum(dropped.values()) + sum(counts["unanswered"].values())
        yield f"{side:<9} {counts['kept']} of {total} kept" + _told(dropped | counts["unanswered"])
        for kind, details in counts["dropped"].items():
            for detail, count in details.items():
                yield f"          {count} x {kind}: {detail}"
    if tokens := content["reasoning_tokens"]:
        counted = ", ".join(f"{by} {count}" for by, count in content["tokens_counted_by"].items())
        yield (
            f"reasoning {tokens['mean']} tokens on average, {tokens['p50']} (p50), "
            f"{tokens['p99']} (p99), {tokens['max']} (max); counted by {counted}"
        )
    yield (
        f"tokens    {content['prompt_tokens']} in, {content['completion_tokens']} out, "
        f"{content['answers']} answers ({content['asked']} now, {content['seconds']:.1f} s)"
        + (f", {content['without_usage']} without usage" if content["without_usage"] else "")
    )
    if failed := content["failed_attempts"]:
        yield f"failed    {sum(failed.values())} attempts" + _told(failed)
    if content["cost"] is not None:
        yield f"cost      {content['cost']:.6g}"
    for one in content["examples"]:
        yield f"e.g. {one['kind']}: {one['reason']}"


def _row(name: str, row: dict[str, Any]) -> tuple:
    dropped = [row["dropped"].get(kind, 0) for kind in KINDS]
    return name, row["pairs"], row["kept"], *dropped, row["unanswered"]


def _told(counts: dict[str, int]) -> str:
    return "".join(f", {count} {kind}" for kind, count in counts.items())
