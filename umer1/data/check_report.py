"""A check's report as a JSON-ready dict and as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from umer1.data.check import EXAMPLES, Report
from umer1.data.store import PairStore

PERCENTILES = (50, 90, 99)


def summary(report: Report, store: PairStore) -> dict[str, Any]:
    """Counts by source and modality, token percentiles, shares of the format, problems."""
    sources = store.sources[: report.pairs]
    lengths = store.lengths[: report.pairs]
    duplicates = report.duplicate_targets()
    modalities: dict[str, Counter] = defaultdict(Counter)
    for (source, kinds), count in report.modalities.items():
        modalities[source][kinds] += count
    total = Counter()
    for counts in modalities.values():
        total.update(counts)
    rows = {}
    for number in np.unique(sources).tolist():
        name, own = store.source_names[number], lengths[sources == number]
        rows[name] = {
            "pairs": len(own),
            "modalities": dict(modalities[name].most_common()),
            "tokens": _percentiles(own),
            "duplicate_targets": duplicates[number],
            "problems": report.by_source[name],
        }
    sides = max(report.responses, 1)
    return {
        "pairs": len(store),
        "checked": report.pairs,
        "sources": rows,
        "modalities": dict(total.most_common()),
        "tokens": _percentiles(lengths),
        "media": report.media,
        "responses": {
            "sides": report.responses,
            "think": report.think / sides,
            "answer": report.answer / sides,
            "gen_emb": report.gen_emb / sides,
        },
        "duplicate_targets": duplicates.total(),
        "problems": dict(report.problems.most_common()),
        "examples": [
            {"kind": each.kind, "where": each.where, "reason": each.reason}
            for examples in report.examples.values()
            for each in examples
        ],
    }


def lines(content: dict[str, Any]) -> Iterator[str]:
    """The summary for people."""
    columns = ("source", "pairs", "tokens p50", "p90", "p99", "max", "same target", "problems")
    rows = [columns, *(_row(name, row) for name, row in content["sources"].items())]
    widths = [max(len(str(row[place])) for row in rows) for place in range(len(columns))]
    for row in rows:
        kinds = "" if row is columns else f"  {_shares(content['sources'][row[0]]['modalities'])}"
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells) + kinds
    tokens = content["tokens"]
    yield ""
    yield f"pairs      {content['checked']} of {content['pairs']}: {_shares(content['modalities'])}"
    yield (
        f"tokens     about {tokens['p50']} (p50), {tokens['p90']} (p90), {tokens['p99']} (p99), "
        f"{tokens['max']} (max) for both sides, estimated from text and media"
    )
    yield f"media      {content['media']} named"
    if content["responses"]["sides"]:
        shares = content["responses"]
        yield (
            f"responses  {shares['sides']}: <think>…</think> {shares['think']:.2%}, "
            f"<answer> {shares['answer']:.2%}, <gen_emb> once at the end {shares['gen_emb']:.2%}"
        )
    else:
        yield "responses  none: for RL and for training the discriminative embedding alone"
    yield f"targets    {content['duplicate_targets']} pairs repeat a target of their source"
    yield ""
    if not content["problems"]:
        yield "no problems"
        return
    for kind, count in content["problems"].items():
        yield f"{count} x {kind}" + (f", the first {EXAMPLES}:" if count > EXAMPLES else ":")
        for each in content["examples"]:
            if each["kind"] == kind:
                told = each["reason"].startswith(each["where"])
                yield "  " + (each["reason"] if told else f"{each['where']}: {each['reason']}")


def _row(name: str, row: dict[str, Any]) -> tuple:
    tokens = [row["tokens"][key] for key in ("p50", "p90", "p99", "max")]
    return name, row["pairs"], *tokens, row["duplicate_targets"], row["problems"]


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{kinds} {count}" for kinds, count in counts.items())


def _percentiles(lengths: np.ndarray) -> dict[str, int]:
    values = np.percentile(lengths, PERCENTILES).round().astype(int)
    named = {f"p{name}": int(value) for name, value in zip(PERCENTILES, values, strict=True)}
    return named | {"max": int(lengths.max())}
