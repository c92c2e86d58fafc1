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
GPU_MEMORY = 24 << 30  # bytes of keys and values


def native(workload: Workload, rows: int = 64, **settings) -> NativeEngine:
    """The workload's engine for so many rows, made at the first call with these settings."""
    if rows not in workload.engines:
        settings = {"kv_memory": GPU_MEMORY if workload.device == "cuda" else None} | settings
        workload.engines[rows] = NativeEngine(
            workload.model, workload.special, slots=rows, packed=workload.packed, **settings
        )
    return workload.engines[rows]


def over_transformers(workload: Workload, rows: int) -> HuggingFaceEngine:
    return HuggingFaceEngine(workload.transformers, workload.special, rows=rows)


def vectors(engine: Engine, workload: Workload) -> Tensor:
    """Run the workload; float32 [embeddings, H]."""
    sampling = Sampling(max(map(len, workload.scripts)), stop=STOP)
    found: dict[tuple[int, int], Tensor] = {}
    with afresh(engine, workload), scripted(workload, sampling):
        for each in engine.submit(workload.requests, sampling, samples=workload.samples):
            found[each.prompt, each.sample] = each.rollout.vector
    return torch.stack([found[key] for key in sorted(found)])


def disc_vectors(engine: Engine, workload: Workload) -> Tensor:
    """Disc mode; float32 [prompts, H]."""
    found = {}
    with afresh(engine, workload):
        for each in engine.submit(workload.requests, Sampling(1), samples=0):
            found[each.prompt] = each.disc
    return torch.stack([found[place] for place in sorted(found)])


@contextmanager
def afresh(engine: Engine, workload: Workload) -> Iterator[None]:
    """A run that finds nothing of an earlier one: no keys and values, no prompts read, no features.

    On a GPU the memory stays taken and the steps stay recorded, as they do in a long run.
    """
    engine.wake()
    if workload.device == "cuda":
        engine.load([], version=engine.version + 1)  # the tower is not frozen: its features go too
    yield
    if workload.device == "cpu":
        engine.sleep()


@contextmanager
def scripted(workload: Workload, sampling: Sampling) -> Iterator[None]:
    """Engines write the scripts: their sampler is called as always, with a token forced in every row."""
    keys, table = _scripts_by_seed(workload, sampling)
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


def _scripts_by_seed(workload: Workload, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Rows' seeds in ascending order, int64 [rows], and their scripts."""
    if sampling.seed not in workload.tables:
        seeds = [
            prompt_seed(request, sampling, sample)
            for request in workload.requests
            for sample in range(workload.samples)
        ]
        seeds = torch.tensor([seed - (seed >> 63 << 64) for seed in seeds])
        order = seeds.argsort()
        found = seeds[order], script_table(workload.scripts)[order]
        workload.tables[sampling.seed] = tuple(each.to(workload.device) for each in found)
    return workload.tables[sampling.seed]


def script_table(scripts: list[list[int]]) -> Tensor:
    """int64 [rows, longest]; a script's last token goes on."""
    longest = max(map(len, scripts))
    return torch.tensor([script + script[-1:] * (longest - len(script)) for script in scripts])
