"""An evaluation's embedding, end to end: the miniature benchmark in gen mode, from files to vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.case import OURS, Case, Expected, Problem, Variant
from bench.evaluation import ours
from bench.evaluation.workload import EvaluationWorkload, missing
from bench.peers import released_evaluation

RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class EvalMini(Case):
    """The bundled model writes what it wants. All vectors of all variants must be those of the released loop."""

    suite = "eval_mini"
    weighed = counted = False
    workload: EvaluationWorkload

    @property
    def peer_tolerance(self):
        return self.tolerance

    def sizes(self):
        return self.workload.sizes()

    def small(self):
        return replace(self, workload=EvaluationWorkload(2))

    def build(self, device):
        # benchmark and models last as long as the problem
        return Problem({"workload": replace(self.workload)})

    def variants(self, device):
        why = missing()
        batches = released_evaluation.BATCHES
        return [
            Variant(OURS, OURS, ours.vectors, f"{ours.ROWS} rows at a time", why),
            Variant(
                RELEASED, "transformers", released_evaluation.vectors,
                "generate(output_hidden_states=True), batches of "
                + ", ".join(f"{size} ({kind})" for kind, size in batches.items()), why,
            ),
        ]  # fmt: skip

    @torch.no_grad()
    def truth(self, problem):
        if missing():
            return {}
        vectors = released_evaluation.vectors(problem.inputs["workload"])
        return {"output": Expected(None, vectors.double())}

    def explain(self, problem):
        return problem.inputs["workload"].describe()


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu" or quick:
        return []
    workload = EvaluationWorkload(40)
    return [EvalMini(name="gen-40-tiny-fp32", dtype=torch.float32, workload=workload)]
