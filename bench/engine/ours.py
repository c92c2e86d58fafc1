"""Our engines on a scripted workload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import umer1.engine.hf as hf
import umer1.engine.slots as slots
from bench.engine.workload import Workload
from umer1.engine import Engine, NativeEngine, Sampling
from umer1.engine.hf import HuggingFaceEngine
from umer1.engine.requests import prompt_seed

STOP = "first"  # nothing after <gen_emb> is needed


def native(workload: Workload, rows: int = 64) -> NativeEngine:
    packed = workload.packed
    return NativeEngine(workload.model, workload.special, slots=rows, packed=packed)


def over_transformers(workload: Workload, rows: int) -> HuggingFaceEngine:
    return HuggingFaceEngine(workload.transformers, workload.special, rows=rows)


def vectors(engine: Engine, workload: Workload) -> Tensor:
    """Run the workload; float32 [embeddings, H]."""
    sampling = Sampling(max(map(len, workload.scripts)), stop=STOP)
    found: dict[tuple[int, int], Tensor] = {}
    engine.wake()
    with scripted(workload, sampling):
        for each in engine.submit(workload.requests, sampling, samples=workload.samples):
            found[each.prompt, each.sample] = each.rollout.vector
    engine.sleep()  # keys and values are the run's, not the next one's
    return torch.stack([found[key] for key in sorted(found)])


def disc_vectors(engine: Engine, workload: Workload) -> Tensor:
    """Disc mode; float32 [prompts, H]."""
    found = {}
    engine.wake()
    for each in engine.submit(workload.requests, Sampling(1), samples=0):
        found[each.prompt] = each.disc
    engine.sleep()
    return torch.stack([found[place] for place in sorted(found)])


@contextmanager
def scripted(workload: Workload, sampling: Sampling) -> Iterator[None]:
    """Engines write the scripts: their sampler is called as always, with a token forced in every row."""
    seeds = [
        prompt_seed(request, sampling, sample)
        for request in workload.requests
        for sample in range(workload.samples)
    ]
    seeds = torch.tensor([seed - (seed >> 63 << 64) for seed in seeds])
    order = seeds.argsort()
    keys, table = seeds[order], script_table(workload.scripts)[order]
    sample = slots.sample_tokens

    def forced(logits, seed, step, *, forced=None, **settings):
        row = torch.searchsorted(keys, seed.contiguous()).clamp_max(len(keys) - 1)
        token = table[row, step.clamp_max(table.shape[1] - 1)]
        return sample(logits, seed, step, forced=token, **settings)

    slots.sample_tokens = hf.sample_tokens = forced
    try:
        yield
    finally:
        slots.sample_tokens = hf.sample_tokens = sample


def script_table(scripts: list[list[int]]) -> Tensor:
    """int64 [rows, longest]; a script's last token goes on."""
    longest = max(map(len, scripts))
    return torch.tensor([script + script[-1:] * (longest - len(script)) for script in scripts])
