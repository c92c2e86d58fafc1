"""One decode step with everything around it: layers, head, sampler, log-probability, bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.case import OURS, Case, Problem, Traffic, Variant
from bench.engine import ours
from bench.engine.peers import Forced
from bench.engine.workload import Workload
from umer1.engine import Sampling

STEPS = 8
CONTEXT, AROUND = 256, 81  # tokens of a prompt, and those of them that are not its text
FLAT = "flat"


@dataclass(frozen=True, kw_only=True)
class EngineDecode(Case):
    """Rows in the middle of their answers, `context` tokens before them; every call starts there again.

    `samples` rows continue one prompt. With more than one the peer is our own engine with a prompt for every row.
    """

    suite = "engine_decode"
    weighed = counted = False
    size: str
    rows: int
    context: int = CONTEXT
    samples: int = 1

    def sizes(self):
        return {"model": self.size, "B": self.rows, "context": self.context, "G": self.samples}

    def small(self):
        return replace(self, size="tiny", context=AROUND + 9)

    def build(self, device):
        def states(prompts, samples):
            kinds = (f"text-{self.context - AROUND}",)
            return _States(
                Workload(self.size, kinds, prompts, samples, 8 * STEPS, device=device.type)
            )

        problem = Problem({"state": states(self.rows // self.samples, self.samples)})
        if self.samples > 1:
            problem.inputs["flat"] = states(self.rows, 1)
            # one copy of the weights
            problem.inputs["flat"].workload.__dict__["model"] = problem.inputs[
                "state"
            ].workload.model
        return problem

    def variants(self, device):
        if self.samples > 1:
            return [
                Variant(OURS, OURS, lambda state, flat: state.ours(), calls=STEPS, checked=False),
                Variant(FLAT, FLAT, lambda state, flat: flat.ours(),
                        "our engine, every row with a prompt of its own", calls=STEPS, checked=False),
            ]  # fmt: skip
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
        return problem.inputs["state"].workload.describe()

    def traffic(self, problem):
        """On a GPU: the weights of decoder and head, and every key and value once, prompts once per prompt."""
        workload = problem.inputs["state"].workload
        if workload.device == "cpu":
            return None
        model, config = workload.model, workload.config
        size = model.dtype.itemsize
        weights = sum(each.numel() for each in model.decoder.parameters()) * size
        keys = config.num_key_value_heads * config.head_dim * 2 * config.num_hidden_layers * size
        tokens = self.rows // self.samples * self.context + self.rows * STEPS
        return Traffic(weights + keys * tokens, torch.device(workload.device))


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
        with ours.scripted(self.workload, SAMPLING):
            for _ in range(STEPS):
                self._engine.step()
        state.copy_(before)
        return state[0, :1]

    def _running_engine(self):
        workload = self.workload
        rows = len(workload.scripts)
        engine = ours.native(workload, rows=rows, prefill_tokens=PREFILL_TOKENS)
        for request in workload.requests:
            engine.add(request, SAMPLING, samples=workload.samples)
        with ours.scripted(workload, SAMPLING):
            while len(engine.stepper.scheduler.started()) < rows:
                engine.step()
        return engine

    @torch.no_grad()
    def peer(self, output_hidden_states: bool) -> Tensor:
        """STEPS steps of generate(), on a cache that is cut back to the context first."""
        model = self.workload.transformers
        sequences = [request.sequence.input_ids for request in self.workload.requests]
        ids = torch.stack(sequences).to(self.workload.device)
        if self._cache is None:
            self._cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        if grown := self._cache.get_seq_length() - ids.shape[1]:
            self._cache.crop(-grown)
        scripts = self.workload.scripts
        start = torch.tensor([script[:1] for script in scripts], device=ids.device)
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


# every row is still writing when the last of several prefills is done
SAMPLING = Sampling(8 * STEPS)
PREFILL_TOKENS = 1 << 16


def cases(device: str, quick: bool) -> list[Case]:
    if device == "cuda":
        return [] if quick else [
            *[_case("2b", rows) for rows in (1, 8, 64, 256)],
            EngineDecode(name="2b-b256-p1000-g8-bf16", dtype=torch.bfloat16, size="2b", rows=256, context=1000,
                         samples=8),
        ]  # fmt: skip
    shapes = [("tiny", 4)] if quick else [
        (size, rows) for size in ("0.1b", "2b") for rows in (1, 2, 4, 8, 16, 32)
    ]  # fmt: skip
    return [_case(size, rows) for size, rows in shapes]


def _case(size: str, rows: int) -> EngineDecode:
    return EngineDecode(name=f"{size}-b{rows}-bf16", dtype=torch.bfloat16, size=size, rows=rows)
