"""Answers into SFT records, and what was dropped on the way."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from umer1.data.annotation.filters import Counter, Dropped, Filters, Kept, judge
from umer1.data.annotation.journal import AnswerJournal
from umer1.data.annotation.plan import Plan
from umer1.data.annotation.sides import SIDES, response, sft_record
from umer1.data.annotation.statistics import Statistics, Unanswered
from umer1.data.cache import write_whole
from umer1.data.media_names import MediaNames
from umer1.data.store import PairStore
from umer1.progress import progress_bar

RECORDS, DROPPED, STATISTICS = "sft.jsonl", "dropped.jsonl", "statistics.json"
_REMEMBERED = 4096  # verdicts on answers that many sides share


def write_results(
    store: PairStore,
    plan: Plan,
    journal: AnswerJournal,
    filters: Filters,
    count: Counter | None,
    root: str | Path,
    about: dict[str, Any],
    progress: bool = True,
) -> dict[str, Any]:
    """Write the three files to the journal's folder, each whole or not at all; the statistics.

    Pairs stay in the order of the data. A pair is kept if both its sides are.
    """
    output = journal.folder
    named = MediaNames(root, output / "media")
    statistics = Statistics()
    dropped_lines: list[str] = []

    @lru_cache(_REMEMBERED)
    def verdict_on(key: int) -> Kept | Dropped:
        return judge(journal.reply(key), filters, count)

    def verdict(number: int, place: int) -> Kept | Dropped | Unanswered:
        if (number, place) in plan.unusable:
            return Unanswered(*plan.unusable[number, place])
        key = int(plan.keys[number, place])
        if key not in journal:  # its question was an earlier side's, which got no answer
            return Unanswered("no answer", "the same question as an earlier side's")
        return verdict_on(key)

    def records() -> Iterator[dict]:
        with progress_bar("write", len(plan.keys), unit="pairs", show=progress) as bar:
            for number in range(len(plan.keys)):
                pair, where = store[number], store.where(number)
                verdicts = [verdict(number, place) for place in range(len(SIDES))]
                statistics.add(pair.dataset, verdicts, where)
                for place, one in enumerate(verdicts):
                    if not isinstance(one, Kept):
                        key = int(plan.keys[number, place])
                        dropped_lines.append(_dropped_line(pair.dataset, where, place, one, key))
                if all(isinstance(one, Kept) for one in verdicts):
                    texts = [response(one.reasoning, one.summary) for one in verdicts]
                    yield sft_record(pair, texts, named)
                bar.advance(1, kept=statistics.kept)

    _write_lines(output / RECORDS, (json.dumps(row, ensure_ascii=False) for row in records()))
    _write_lines(output / DROPPED, dropped_lines)
    answers = {
        "answers": len(journal),
        "repeated_questions": plan.repeated,
        "prompt_tokens": journal.prompt_tokens,
        "completion_tokens": journal.completion_tokens,
        "without_usage": journal.without_usage,
    }
    content = {**about, **answers, **statistics.to_dict(filters)}
    text = json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
    write_whole(output / STATISTICS, lambda file: file.write(text))
    return content


def _dropped_line(dataset: str, where: str, place: int, one: Dropped | Unanswered, key: int) -> str:
    row = {
        "dataset_name": dataset,
        "where": where,
        "side": SIDES[place],
        "kind": one.kind,
        "detail": one.detail,
        "key": f"{key:016x}",
    }
    return json.dumps(row, ensure_ascii=False)


def _write_lines(path: Path, lines) -> None:
    def write(file: BinaryIO) -> None:
        for batch in iter(lambda: list(itertools.islice(lines, 1000)), []):
            # what a data file of others may hold, and no UTF-8 can
            file.write(("\n".join(batch) + "\n").encode("utf-8", "backslashreplace"))

    lines = iter(lines)
    os.makedirs(path.parent, exist_ok=True)
    write_whole(path, write)
