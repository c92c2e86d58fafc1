"""Of one peer's settings only the fastest is timed in rounds."""

import time
from dataclasses import dataclass

import torch

from bench.case import OURS, Case, Problem, Variant
from bench.runner import measure


@dataclass(frozen=True, kw_only=True)
class Sleeps(Case):
    suite = "sleeps"
    weighed = counted = False

    def sizes(self):
        return {}

    def small(self):
        return self

    def build(self, device):
        return Problem({"rows": torch.zeros(1)})

    def variants(self, device):
        def sleeper(seconds):
            return lambda rows: (time.sleep(seconds), rows)[1]

        return [
            Variant(OURS, OURS, sleeper(0.0), checked=False),
            *[
                Variant(f"peer-b{batch}", "peer", sleeper(seconds), checked=False, sweep="peer")
                for batch, seconds in ((1, 0.05), (2, 0.01), (4, 0.08))
            ],
            Variant("other", "peer", sleeper(0.02), checked=False),
        ]

    def truth(self, problem):
        return {}

    def explain(self, problem):
        return "sleeps"


def test_slower_settings_are_named_and_not_timed():
    case = Sleeps(name="three", dtype=torch.float32)
    rows = {row["variant"]: row for row in measure(case, torch.device("cpu"), seconds=0.2)}
    timed = {name for name, row in rows.items() if "median_ms" in row}
    assert timed == {OURS, "peer-b2", "other"}
    assert set(rows[OURS]["speedup"]) == {"peer-b2", "other"}
    for slower in ("peer-b1", "peer-b4"):
        assert "peer-b2 in its first run" in rows[slower]["status"]
