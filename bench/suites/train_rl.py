"""An RL step, whole: rollouts of both sides, rewards and one update, beside the released trainer's on transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.case import Case, Expected
from bench.peers import released_rl
from bench.training.flops import rl_flop
from bench.training.ours import OurRL
from bench.training.step_case import TrainStep
from bench.training.workload import RL_KINDS, TINY_KINDS, TrainingWorkload

# of gaps and embedding rewards; of gaps alone in bfloat16, where a rank turns on the last bit of a similarity
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True, kw_only=True)
class TrainRL(TrainStep):
    """Rollouts of both sides and their rewards come first."""

    suite = "train_rl"
    tolerances = TOLERANCE
    make_ours = OurRL
    released = staticmethod(released_rl.step)
    flop_of = staticmethod(rl_flop)
    released_note = "generate() and forwards of {rows} sequences, prompts once per rollout"

    def small(self):
        return replace(self, workload=replace(self.workload, size="tiny", kinds=TINY_KINDS))

    def truth(self, problem):
        """By the released loop, of vectors from a float32 forward over every whole sequence."""
        workload = problem.inputs["workload"]
        workload.make_transformers()
        scores = released_rl.true_scores(workload)
        count = len(scores) if self.dtype == torch.float32 else len(scores) // 2
        return {"output": Expected(slice(0, count), scores[:count])}

    def explain(self, problem):
        return problem.inputs["ours"].describe()


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        workload = TrainingWorkload("tiny", 2, 2, TINY_KINDS, torch.float32, mean_length=24)
        name, dtype, rows = "rollouts-2x2-tiny-fp32", torch.float32, (4,)
    elif device == "cuda":
        # all rows at once: the fewest steps of generate(), whatever their number
        workload = TrainingWorkload("2b", 4, 8, RL_KINDS, mean_length=400)
        name, dtype, rows = "rollouts-4x8-2b-bf16", torch.bfloat16, (32,)
    else:
        workload = TrainingWorkload("0.1b", 2, 8, RL_KINDS)
        name, dtype, rows = "rollouts-2x8-0.1b-bf16", torch.bfloat16, (4, 8, 16)
    return [TrainRL(name=name, dtype=dtype, workload=workload, rows=rows)]
