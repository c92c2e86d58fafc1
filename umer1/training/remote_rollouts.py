"""Rollouts by vLLM or SGLang servers, which get the policy's weights before each round."""

from __future__ import annotations

from contextlib import nullcontext

import torch.distributed as dist

from umer1.engine import Generated, Prompt, Sampling, generate
from umer1.engine.named import engine_name, open_engine
from umer1.engine.protocol import Engine
from umer1.model.key_names import checkpoint_tensors
from umer1.model.packed_weights import PackedWeights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.training.rollout_share import RolloutShare
from umer1.training.settings import RLConfig


def generate_remotely(
    policy: Qwen2VL,
    processor: Processor,
    prompts: list[Prompt],
    sampling: Sampling,
    config: RLConfig,
    *,
    packed: PackedWeights | None,
    share: RolloutShare,
) -> list[Generated]:
    """`generate` on the servers of `config.rollout_engine`; their weights come from the first
    process, and every process has its own prompts written.

    Args:
        policy: whole weights, in every process.
        share: which rollouts this process makes.
    """
    named = engine_name(config.rollout_engine)
    engine = open_engine(
        named, policy, processor, packed=packed, weights_directory=config.rollout_weights
    )
    try:
        _push(engine, None if named.needs_model else policy, packed, sampling.seed, share.group)
        return generate(engine, prompts, sampling, samples=share.rollouts)
    finally:
        engine.close()


def _push(
    engine: Engine, policy: Qwen2VL | None, packed: PackedWeights | None, version: int, group
) -> None:
    """New weights before anybody's prompts; what went wrong in the first process is everybody's
    error. policy: None where the engine has it, and finds its weights there."""
    problem: list[Exception | None] = [None]
    if group is None or dist.get_rank(group) == 0:
        try:
            plain = nullcontext() if policy is None or packed is None else packed.undone()
            with plain:
                entries = () if policy is None else checkpoint_tensors(policy)
                engine.load(((each.key, each.read()) for each in entries), version)
        except (RuntimeError, ValueError, OSError) as error:
            problem = [error]
    if group is not None:
        dist.broadcast_object_list(problem, src=dist.get_global_rank(group, 0), group=group)
    if problem[0] is not None:
        raise problem[0]
