"""One decode step with everything around it: layers, head, sampler, log-probability, bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.case import OURS, Case, Problem, Variant
from bench.engine import ours
from bench.engine.peers import Forced
from bench.engine.workload import Workload
from umer1.engine import Sampling

STEPS = 8
CONTEXT = 256


@dataclass(frozen=True, kw_only=True)
class EngineDecode(Case):
    """Rows in the middle of their answers, `CONTEXT` tokens before them; every call starts there again."""

    suite = "engine_decode"
    weighed = counted = False
    size: str
    rows: int

    def sizes(self):
        return {"model": self.size, "B": self.rows, "context": CONTEXT}

    def small(self):
        return replace(self, size="tiny")

    def build(self, device):
        text = CONTEXT - 81  # the rest of a prompt's tokens
        workload = Workload(self.size, (f"text-{text}",), self.rows, length=4 * STEPS)
        return Problem({"state": _States(workload)})

    def variants(self, device):
        return [
            Variant(OURS, OURS, lambda state: state.ours(), calls=STEPS, checked=False),
            Variant("generate", "transformers", lambda state: state.peer(False),
                    "generate() alone, on a cache of the context", calls=STEPS, checked=False),
            Variant("released", "transformers", lambda state: state.peer(True),
                    "generate(output_hidden_states=True)", calls=STEPS, checked=False),
        ]  # fmt: skip

    def truth(self, problem):
        return {}

    def explain(self, problem):
        state = problem.inputs["state"]
        return state.workload.packed.describe()


class _States:
    """Both sides in the middle of a generation, made once."""

    def __init__(self, workload: Workload):
        self.workload = workload
        self._engine = self._cache = None

    def ours(self) -> Tensor:
        """STEPS steps; the engine is then put back to where it was."""
        if self._engine is None:
            self._engine = self._running_engine()
        state = self._engine.stepper.decode().slots.state
        before = state.clone()
        sampling = Sampling(4 * STEPS)
        with ours.scripted(self.workload, sampling):
            for _ in range(STEPS):
                self._engine.step()
        state.copy_(before)
        return state[0, :1]

    def _running_engine(self):
        workload = self.workload
        engine = ours.native(workload, rows=len(workload.requests))
        sampling = Sampling(4 * STEPS)
        for request in workload.requests:
            engine.add(request, sampling)
        with ours.scripted(workload, sampling):
            engine.step()
        assert len(engine.stepper.scheduler.started()) == len(workload.requests)
        return engine

    @torch.no_grad()
    def peer(self, output_hidden_states: bool) -> Tensor:
        """STEPS steps of generate(), on a cache that is cut back to the context first."""
        model = self.workload.transformers
        ids = torch.stack([request.sequence.input_ids for request in self.workload.requests])
        if self._cache is None:
            self._cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        if grown := self._cache.get_seq_length() - ids.shape[1]:
            self._cache.crop(-grown)
        scripts = self.workload.scripts
        start = torch.tensor([script[:1] for script in scripts])
        model.generate(
            torch.cat([ids, start], 1),
            past_key_values=self._cache,
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=self.workload.special.eos_id,
            pad_token_id=self.workload.special.eos_id,
            logits_processor=[Forced([script[1:] for script in scripts], ids.shape[1] + 1)],
            output_hidden_states=output_hidden_states,
            return_dict_in_generate=True,
        )
        return ids[0, :1]


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu":
        return []
    shapes = [("tiny", 4)] if quick else [
        (size, rows) for size in ("0.1b", "2b") for rows in (1, 2, 4, 8, 16, 32)
    ]  # fmt: skip
    return [
        EngineDecode(name=f"{size}-b{rows}-bf16", dtype=torch.bfloat16, size=size, rows=rows)
        for size, rows in shapes
    ]
