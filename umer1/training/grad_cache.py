"""The gradient of one contrastive batch, of one forward or of many (GradCache).

A batch that does not fit into memory goes through the model in parts. Without gradients each part
gives its vectors; the contrastive loss of all of them gives every vector's gradient; then each part
goes through again with gradients, which its vectors pass on. The result is the gradient of the whole
batch (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup").
The last part keeps the graph of its first pass: it is not run twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from umer1.training.collate import SFTBatch, SFTPart
from umer1.training.contrastive import Contrast, ContrastiveLoss
from umer1.training.encoded import IGNORED
from umer1.training.objectives import SFTForward, SFTOutputs
from umer1.training.twins import with_common_ids


class SFTNumbers(NamedTuple):
    """Of one batch on this process: scalars without gradient."""

    total: Tensor
    gen: Tensor
    disc: Tensor
    align: Tensor
    ce_query: Tensor  # means over supervised tokens
    ce_target: Tensor
    gen_hit: Tensor
    disc_hit: Tensor
    scale: Tensor


@dataclass(slots=True)
class SFTObjective:
    """L = contrastive loss + cross_entropy_weight * (CE_q + CE_p).

    Attributes:
        generative: False leaves the disc term alone (the DUME baseline).
        global_token_mean: CE is the mean over the tokens of all processes. False, as released: the
            mean over processes of the mean over each one's own tokens, which counts a token of a
            process with few of them for more.
        in_parts: False if no process has a batch of several parts: then they need not ask each other.
    """

    contrast: Contrast
    gen_id: int
    disc_id: int
    generative: bool = True
    cross_entropy_weight: float = 1.0
    global_token_mean: bool = False
    in_parts: bool = True

    def token_weight(self, batch: SFTBatch) -> Tensor | None:
        """float32 [2]: what a supervised token of a query and of a target counts for."""
        if not self.generative:
            return None
        counts, group = batch.supervised, self.contrast.group
        if self.global_token_mean and group is not None:
            counts = counts.clone()
            torch.distributed.all_reduce(counts, group=group)
            counts = counts / torch.distributed.get_world_size(group)
        return self.cross_entropy_weight / counts.clamp_min(1)


def add_gradients(
    trainee: nn.Module,
    batch: SFTBatch,
    objective: SFTObjective,
    run,
    *,
    factor: float = 1.0,
    last: bool = True,
    passes: int | None = None,
) -> SFTNumbers:
    """Adds the gradient of factor * L(batch) to the parameters'.

    Args:
        trainee: what `prepare` made of a Trainee.
        run: has `part(last=)`, `backward(loss)` and `largest(number)`; see Parallel.
        last: False if more gradients follow before the optimizer's step.
        passes: the most parts that a process has of its batch; None: ask the others.
    """
    batch = with_common_ids(batch, objective.contrast.group)
    if passes is None:
        passes = run.largest(len(batch.parts)) if objective.in_parts else len(batch.parts)
    through = _Passes(trainee, objective, objective.token_weight(batch), run, factor)
    if passes == 1:
        with run.part(last=last):
            outputs = through.forward(batch.parts[0])
            found = objective.contrast(outputs.gen, outputs.disc, batch, outputs.scale)
            loss = found.total if outputs.token_loss is None else found.total + outputs.token_loss
            through.backward(loss)
        return _numbers(objective, batch, found, [outputs])
    return _cached(through, batch, passes, last)


def room_of(batch: SFTBatch, passes: int, capacity: int) -> int:
    """Tokens that there is room for in this process's passes of `capacity` tokens; 0: a pass is as large as
    its tokens. Passes that only keep the others company count: they take time like any other."""
    sizes = [sum(part.packed.lengths) for part in batch.parts]
    sizes += [min(sizes)] * (passes - len(sizes))
    return sum(max(size, capacity) for size in sizes)


@dataclass(slots=True)
class _Passes:
    """Forward and backward of parts, on one objective."""

    trainee: nn.Module
    objective: SFTObjective
    token_weight: Tensor | None
    run: object
    factor: float

    def forward(self, part: SFTPart, *, vectors_only: bool = False) -> SFTOutputs:
        objective = self.objective
        weight = None if vectors_only else self.token_weight
        forward = SFTForward(
            part, objective.gen_id, objective.disc_id, objective.generative, weight
        )
        return self.trainee(forward)

    def backward(self, loss: Tensor) -> None:
        self.run.backward(loss if self.factor == 1.0 else self.factor * loss)


def _cached(passes: _Passes, batch: SFTBatch, count: int, last: bool) -> SFTNumbers:
    # every process makes as many passes as the one with most parts: the others' last ones count nothing
    parts = batch.parts + [_counting_nothing(batch.parts)] * (count - len(batch.parts))
    random_states: list[_RandomState] = []
    vectors: list[tuple[Tensor | None, Tensor]] = []
    with torch.no_grad():
        for part in parts[:-1]:
            random_states.append(_RandomState.now(batch.supervised.device))
            outputs = passes.forward(part, vectors_only=True)
            vectors.append((outputs.gen, outputs.disc))
    done: list[SFTOutputs] = []
    with passes.run.part(last=False):
        outputs = passes.forward(parts[-1])
        vectors.append((outputs.gen, outputs.disc))
        after = _RandomState.now(batch.supervised.device)
        found, slopes, scale_slope = _slopes(passes.objective, vectors, batch, outputs.scale)
        passes.backward(_surrogate(outputs, slopes[-1]))
        done.append(_without_graph(outputs))
    # the first part goes last, with what processes exchange then: it is never one that counts nothing
    for number in reversed(range(count - 1)):
        random_states[number].restore()
        with passes.run.part(last=last and number == 0):
            outputs = passes.forward(parts[number])
            loss = _surrogate(outputs, slopes[number])
            if number == 0 and scale_slope is not None:
                loss = loss + (outputs.scale * scale_slope).sum()
            passes.backward(loss)
            done.append(_without_graph(outputs))
    after.restore()
    return _numbers(passes.objective, batch, found, done)


def _slopes(
    objective: SFTObjective, vectors: list, batch: SFTBatch, scale: Tensor | None
) -> tuple[ContrastiveLoss, list[tuple[Tensor | None, Tensor]], Tensor | None]:
    """The contrastive loss of all vectors, its gradient for those of each part, and for the scale."""
    gen, disc = zip(*vectors)
    leaves = [None if each[0] is None else torch.cat(each) for each in (gen, disc)]
    leaves += [scale]
    leaves = [each if each is None else each.detach().requires_grad_() for each in leaves]
    with torch.enable_grad():
        found = objective.contrast(leaves[0], leaves[1], batch, leaves[2])
        wanted = [leaf for leaf in leaves if leaf is not None]
        slopes = iter(torch.autograd.grad(found.total, wanted))
    gen_slope, disc_slope, scale_slope = (None if leaf is None else next(slopes) for leaf in leaves)
    sizes = [len(each) for each in disc]
    gen_parts = [None] * len(sizes) if gen_slope is None else gen_slope.split(sizes)
    found = found._replace(total=found.total.detach())
    return found, list(zip(gen_parts, disc_slope.split(sizes))), scale_slope


def _surrogate(outputs: SFTOutputs, slopes: tuple[Tensor | None, Tensor]) -> Tensor:
    """Whose gradient is that of the batch's loss by way of this part."""
    loss = (outputs.disc * slopes[1]).sum()
    if outputs.gen is not None:
        loss = loss + (outputs.gen * slopes[0]).sum()
    return loss if outputs.token_loss is None else loss + outputs.token_loss


def _numbers(
    objective: SFTObjective, batch: SFTBatch, found: ContrastiveLoss, done: list[SFTOutputs]
) -> SFTNumbers:
    zero = found.total.new_zeros(())
    total, ce_query, ce_target = found.total.detach(), zero, zero
    if done[0].token_loss is not None:
        counts = batch.supervised.clamp_min(1)
        ce_query = sum(each.ce_query_sum for each in done) / counts[0]
        ce_target = sum(each.ce_target_sum for each in done) / counts[1]
        total = total + sum(each.token_loss.detach() for each in done)
    scale = done[0].scale
    scale = zero + objective.contrast.scale if scale is None else scale.detach()[0]
    return SFTNumbers(
        total, found.gen, found.disc, found.align, ce_query, ce_target, found.gen_hit,
        found.disc_hit, scale,
    )  # fmt: skip


def _without_graph(outputs: SFTOutputs) -> SFTOutputs:
    return SFTOutputs(*(None if each is None else each.detach() for each in outputs))


def _counting_nothing(parts: list[SFTPart]) -> SFTPart:
    """A pass over the smallest part, of which no vector and no token counts."""
    part = min(parts, key=lambda part: len(part.packed.input_ids))
    return replace(part, next_tokens=torch.full_like(part.next_tokens, IGNORED))


@dataclass(slots=True)
class _RandomState:
    """Of the CPU and of one device: dropout must drop the same in both passes."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> _RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
