"""One round of learning: reference log-probabilities, then the optimizer's updates on the same rollouts.

Every process runs the same number of parts, so that gathers and reductions meet: who has fewer fills up with two
tokens of weight 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from umer1.training.loop import Run
from umer1.training.packing import plan_microbatches, plan_packs
from umer1.training.policy_forward import Objective, RLForward, RLOutputs
from umer1.training.reference_policy import ReferencePolicy
from umer1.training.rollout_pack import RolloutGroup, RolloutPack, filler, pack_rollouts, pieces
from umer1.training.settings import RLConfig


@dataclass(slots=True)
class Parts:
    """This process's forwards of a round, as many as every other process has.

    weights: 1.0, or 0.0 for one that only takes part. tokens: completion tokens of all processes that are learned
    from; packed_tokens: tokens that this process sends through the model once per update.
    """

    packs: list[RolloutPack]
    weights: list[float]
    tokens: int
    packed_tokens: int


def make_parts(
    groups: list[RolloutGroup], state: Run, config: RLConfig, *, share: bool, spatial_merge: int
) -> Parts:
    """Packs of at most `microbatch_tokens`, on the device."""
    parallel = state.parallel
    items = pieces(groups, config.microbatch_tokens, share=share)
    lengths = [item.tokens for item in items]
    needed = len(plan_packs(lengths, config.microbatch_tokens))
    count = max(1, parallel.largest(needed))
    plan = plan_microbatches(lengths, config.microbatch_tokens, parts=count)
    packs = [
        pack_rollouts(
            [items[number] for number in members] or filler(state.processor.eos_id),
            parallel.device,
            spatial_merge,
            share=share,
        )
        for members in plan
    ]
    weights = [float(bool(members)) for members in plan]
    tokens = sum(len(pack.ids) for pack, weight in zip(packs, weights) if weight)
    total = torch.tensor(tokens, device=parallel.device)
    if parallel.group is not None:
        dist.all_reduce(total, group=parallel.group)
    return Parts(packs, weights, int(total), sum(lengths))


def learn(
    model: nn.Module,
    parts: Parts,
    reference: ReferencePolicy | None,
    state: Run,
    config: RLConfig,
    objective: Objective,
    *,
    before_update: Callable[[], None],
    where: Callable[[], list[str]],
) -> dict[str, float]:
    """`updates_per_rollout` optimizer steps; returns the means of their numbers.

    The first update's policy is the one that sampled: its ratios are 1 and no forward is spent on old
    log-probabilities. Later updates compare with the log-probabilities that the first one computed anyway.
    """
    scores: list[Tensor | None] = [None] * len(parts.packs)
    if reference is not None:
        precision = state.accelerator.autocast
        scores = reference.score(model, parts.packs, config.temperature, precision)
    old: list[Tensor | None] = [None] * len(parts.packs)
    updates = config.updates_per_rollout
    numbers: dict[str, float] = {}
    for update in range(updates):
        before_update()
        sums: list[RLOutputs] = []
        for number, part in enumerate(parts.packs):
            with state.part(last=number == len(parts.packs) - 1):
                outputs = model(
                    RLForward(
                        part,
                        objective,
                        old[number],
                        scores[number],
                        parts.weights[number],
                        want_logprob=update == 0 and updates > 1,
                    )
                )
                # processes are averaged, the loss is a sum over all of them
                state.backward(outputs.loss * state.parallel.world_size)
            if update == 0 and updates > 1:
                old[number] = outputs.logprob
            sums.append(outputs._replace(loss=outputs.loss.detach()))
        found = _means(sums, parts, state.parallel.world_size)
        norm = state.update(found, where)
        found["gradient_norm"] = float("nan") if norm is None else norm
        for name, value in found.items():
            numbers[name] = numbers.get(name, 0.0) + value / updates
    return numbers


def _means(outputs: list[RLOutputs], parts: Parts, world_size: int) -> dict[str, float]:
    """Numbers whose mean over the processes is that of the whole step."""
    sums = torch.stack([torch.stack(each[:4]).double() for each in outputs]).sum(0) * world_size
    loss, *per_token = sums.tolist()
    names = ("kl", "clip_fraction", "entropy")
    tokens = max(1, parts.tokens)
    return {"loss": loss, **{name: value / tokens for name, value in zip(names, per_token)}}
