"""A discriminative model that is told what someone else's reasoning came to: the ablation's other way to use reasoning.

The summary stands on a line of its own after the input's text, on both sides. In training it is the data's own annotation
(a teacher wrote it, as in the release); in evaluation a generative model, the bundled one, reads the input and writes it.
"""

from __future__ import annotations

import json
from pathlib import Path

from umer1 import Embedder
from umer1.prompts import DISC_TOKEN, parse_item, parse_response


def with_annotated_summaries(sft: Path, written: Path) -> Path:
    """A copy of an SFT file whose human turns carry the summaries of its responses."""
    records = json.loads(sft.read_text())
    for record in records:
        for side in (record["qry"], record["pos"]):
            human, response = side["conversations"]
            head, token, rest = human["value"].rpartition(f"\n{DISC_TOKEN}")
            if not token:
                raise ValueError(f"{sft}: a human turn has no {DISC_TOKEN}: {human['value']!r}")
            human["value"] = told(head, parse_response(response["value"])[1]) + token + rest
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(records))
    return written


def told(text: str, summary: str) -> str:
    return f"{text}\nSummary: {summary}"


class SummarisedEmbedder:
    """Disc vectors of inputs together with what `reasoner` makes of them; `stream` as the evaluation calls it."""

    def __init__(self, embedder: Embedder, reasoner: Embedder):
        self.embedder, self.reasoner = embedder, reasoner

    def encode(self, items: list, mode: str = "disc", **options):
        return self.embedder.encode(self._told(items, mode, options), mode="disc", **options)

    def stream(self, items: list, mode: str = "disc", *, numbers: list | None = None, **options):
        told = self._told(items, mode, {"progress": False, **options})
        return self.embedder.stream(told, mode="disc", numbers=numbers, **options)

    def _told(self, items: list, mode: str, options: dict) -> list:
        if mode != "disc":
            raise ValueError(
                f"mode: got {mode!r}, wants 'disc': this embedder writes nothing itself"
            )
        written = self.reasoner.encode(items, mode="gen", **options)
        return [_told(item, summary) for item, summary in zip(items, written.summary)]


def _told(item, summary: str):
    item = parse_item(item)
    return type(item)(told(item.text, summary), item.media)
