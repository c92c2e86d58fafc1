"""Generative embeddings, end to end: queries, and groups of rollouts for the same prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from bench.case import OURS, Case, Expected, Problem, Variant
from bench.engine import ours, peers
from bench.engine.workload import Workload

CHECKED = 4  # rows whose vectors are compared
COSINE = 0.999
RELEASED, GENERATE = "released", "generate"


@dataclass(frozen=True, kw_only=True)
class EngineGenerate(Case):
    """Batch sizes are tried for the peers: they are compared at their best."""

    suite = "engine_generate"
    weighed = counted = False
    workload: Workload
    batches: tuple[int, ...]

    @property
    def tolerance(self):
        # of a unit vector, from its cosine
        return (2 - 2 * COSINE) ** 0.5

    def sizes(self):
        return self.workload.sizes() | {"samples": self.workload.samples}

    def small(self):
        return replace(
            self, workload=replace(self.workload, size="tiny", kinds=("image-4",), prompts=2)
        )

    def build(self, device):
        return Problem(
            {"workload": replace(self.workload)}
        )  # its models last as long as the problem

    def variants(self, device):
        rows = min(8, max(self.batches))
        return [
            Variant(OURS, OURS, _native),
            *[
                Variant(f"{RELEASED}-b{batch}", "transformers", partial(peers.released, batch=batch),
                        f"generate(output_hidden_states=True), batches of {batch}", sweep=RELEASED)
                for batch in self.batches
            ],
            *[
                Variant(f"{GENERATE}-b{batch}", "transformers", partial(peers.generated, batch=batch),
                        f"generate() alone, no vectors, batches of {batch}", checked=False,
                        sweep=GENERATE)
                for batch in self.batches
            ],
            Variant("umer1-hf", "umer1-hf", partial(_over_transformers, rows=rows),
                    f"our engine over transformers' model, {rows} rows at a time"),
        ]  # fmt: skip

    def truth(self, problem):
        vectors = problem.inputs["workload"].true_vectors(CHECKED)
        return {"output": Expected(torch.arange(len(vectors)), vectors.double())}

    def explain(self, problem):
        return problem.inputs["workload"].packed.describe()


def _native(workload: Workload):
    return ours.vectors(ours.native(workload, rows=min(64, len(workload.scripts))), workload)


def _over_transformers(workload: Workload, rows: int):
    return ours.vectors(ours.over_transformers(workload, rows), workload)


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu":
        return []
    if quick:
        queries, rollouts, size = 8, (2, 4), "tiny"
        kinds, batches = ("image-4",), ((8,), (8,))
    else:
        queries, rollouts, size = 32, (4, 8), "0.1b"
        kinds, batches = ("image-64", "image-256"), ((8, 16, 32), (8, 16, 32))
    found = []
    for kind in kinds:
        for name, prompts, samples, tried in (
            (f"queries-{queries}", queries, 1, batches[0]),
            (f"rollouts-{rollouts[0]}x{rollouts[1]}", *rollouts, batches[1]),
        ):
            workload = Workload(size, (kind,), prompts, samples)
            found.append(
                EngineGenerate(
                    name=f"{name}-{size}-{kind}-bf16",
                    dtype=torch.bfloat16,
                    workload=workload,
                    batches=tried,
                )
            )
    return found
