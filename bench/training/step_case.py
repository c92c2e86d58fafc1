"""What the cases of SFT and RL share: a whole step of ours beside the released trainer's at its best number of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from bench.case import OURS, Case, Problem, Variant
from bench.training.workload import TrainingWorkload

RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class TrainStep(Case):
    """Forward, backward, clipping and AdamW at rate 0, so that all steps are alike.

    A stage says which of its functions are timed, and how far results may differ.
    """

    weighed = compilable = False
    workload: TrainingWorkload
    rows: tuple[int, ...]  # per forward (and generate()), tried for the release

    tolerances: ClassVar[dict[torch.dtype, float]]
    make_ours: ClassVar[type]  # of a workload; has step()
    released: ClassVar[Callable[[TrainingWorkload, int], Tensor]]
    flop_of: ClassVar[Callable[[TrainingWorkload], int]]
    released_note: ClassVar[str]

    @property
    def tolerance(self):
        return self.tolerances[self.dtype]

    @property
    def peer_tolerance(self):
        return self.tolerance

    def sizes(self):
        return self.workload.sizes() | {"flop": type(self).flop_of(self.workload)}

    def build(self, device):
        workload = replace(self.workload, device=str(device))
        return Problem({"workload": workload, "ours": self.make_ours(workload)})

    def variants(self, device):
        return [
            Variant(OURS, OURS, _ours),
            *[
                Variant(
                    f"{RELEASED}-b{rows}", "transformers",
                    partial(_released, step=type(self).released, rows=rows),
                    self.released_note.format(rows=rows), sweep=RELEASED,
                )
                for rows in self.rows
            ],
        ]  # fmt: skip


def _ours(workload: TrainingWorkload, ours) -> Tensor:
    with torch.enable_grad():  # cases without leaves are called without
        return ours.step()


def _released(workload: TrainingWorkload, ours, *, step, rows: int) -> Tensor:
    with torch.enable_grad():
        return step(workload, rows)
