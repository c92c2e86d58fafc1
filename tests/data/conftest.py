"""A small build of the miniature benchmark, shared by the tests of its content."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from umer1.data.mini import Counts, build

SMALL = Counts(multi_step=20, one_look=20, rl=8, evaluation=40)


@dataclass
class Mini:
    root: Path
    sft: list[dict]
    rl: list[dict]
    tasks: dict[str, dict]
    sources: dict[str, dict]
    truth: list[dict]

    def truth_of(self, file: str) -> list[dict]:
        return [row for row in self.truth if row["file"].startswith(file)]


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Mini:
    root = build(tmp_path_factory.mktemp("data") / "mini", seed=5, counts=SMALL, progress=False)

    def load(name):
        return json.loads((root / name).read_text(encoding="utf-8"))

    lines = (root / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    return Mini(
        root,
        load("train/sft.json"),
        load("train/rl.json"),
        load("tasks.json"),
        load("sources.json"),
        [json.loads(line) for line in lines],
    )
