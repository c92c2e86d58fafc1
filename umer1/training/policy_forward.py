"""What RL computes inside the wrapped forward: the loss of a pack of rollouts, or their log-probabilities.

    outputs = trainee(RLForward(part, objective))       # with gradient
    logprob = trainee(ScoreForward(part, temperature))  # without: reference, old policy

Logits are divided by the sampling temperature everywhere, so that log-probabilities are those of the distribution
that was sampled from. Only states that predict completion tokens reach the last layer's MLP and the vocabulary.

Legend: C completion tokens of the pack, N completions of the whole step over all processes and both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import umer1_kernels as kernels
from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.parallel import use_head
from umer1.training.rollout_pack import RolloutPack
from umer1_kernels.linear_loss import GRPOLoss


@dataclass(frozen=True, slots=True)
class Objective:
    """L = sum over the tokens of all N completions of l_t / divisor, UME-R1's (L_query + L_target) / 2 (both sides
    have N / 2), with

        r_t = exp(logp_t - old_t)        KL_t = exp(ref_t - logp_t) - (ref_t - logp_t) - 1
        l_t = -min(r_t A, clip(r_t, 1 - clip[0], 1 + clip[1]) A) + beta KL_t

    divisor: N * normalizer (released: the constant 2048), or with per_length N * |o| for the tokens of a completion
    of |o| tokens (GRPO as first published, arXiv 2402.03300, eq. 3; commented out in the release).
    """

    completions: int  # N
    normalizer: float
    per_length: bool
    clip: tuple[float, float]
    beta: float
    temperature: float


class RLOutputs(NamedTuple):
    """loss carries the gradient; kl, clipped and entropy are sums over the C tokens without one.

    logprob: float32 [C] without gradient, empty unless it was asked for.
    """

    loss: Tensor
    kl: Tensor
    clipped: Tensor
    entropy: Tensor
    logprob: Tensor


@dataclass(slots=True)
class RLForward:
    """Loss of one pack, to be called with the model.

    Attributes:
        old_logprob: float32 [C] of the policy that sampled; None: it is this one, r = 1 in value by construction.
        ref_logprob: float32 [C] of the reference; None: no KL term.
        weight: of the loss; 0 for a process that only takes part.
        want_logprob: also return the log-probabilities, for later updates on the same rollouts.
    """

    part: RolloutPack
    objective: Objective
    old_logprob: Tensor | None = None
    ref_logprob: Tensor | None = None
    weight: float = 1.0
    want_logprob: bool = False

    def __call__(self, model: Qwen2VL) -> RLOutputs:
        part, objective = self.part, self.objective
        hidden, head = completion_states(model, part), use_head(model)
        hidden = hidden.to(head.dtype)
        if objective.per_length:
            loss, logprob = self._per_length(hidden, head)
        else:
            loss = kernels.grpo_loss(
                hidden,
                head,
                part.ids,
                part.advantage,
                mask=torch.ones_like(part.advantage),
                old_logprob=self.old_logprob,
                ref_logprob=self.ref_logprob,
                clip=objective.clip,
                beta=objective.beta,
                normalizer=objective.completions * objective.normalizer,
                temperature=objective.temperature,
            )
            logprob = part.advantage.new_zeros(0)
            if self.want_logprob:  # one more product with the head, no second forward
                logprob = _logprob(hidden.detach(), head.detach(), part, objective.temperature)
        count = len(part.ids) * bool(self.weight)
        sums = (each * count for each in (loss.kl, loss.clip_fraction, loss.entropy))
        return RLOutputs(loss.loss * self.weight, *sums, logprob)

    def _per_length(self, hidden: Tensor, head: Tensor) -> tuple[GRPOLoss, Tensor]:
        """The same from differentiable log-probabilities, each token with its own divisor."""
        part, objective = self.part, self.objective
        logprob = kernels.linear_logprob(hidden, head, part.ids, temperature=objective.temperature)
        token_loss, kl, clipped = token_losses(
            logprob, part.advantage, self.old_logprob, self.ref_logprob, objective
        )
        with torch.no_grad():
            # after the loss, which is one product more; its own costs none of the gradient's
            entropy = kernels.linear_logprob(
                hidden, head, part.ids, temperature=objective.temperature, return_entropy=True
            )[1]
        loss = (token_loss / part.length).sum() / objective.completions
        return GRPOLoss(loss, kl.mean(), clipped.mean(), entropy.mean()), logprob.detach()


@dataclass(slots=True)
class ScoreForward:
    """Log-probabilities of a pack's tokens, float32 [C], without gradient."""

    part: RolloutPack
    temperature: float

    @torch.no_grad()
    def __call__(self, model: Qwen2VL) -> Tensor:
        head = use_head(model)
        hidden = completion_states(model, self.part).to(head.dtype)
        return _logprob(hidden, head, self.part, self.temperature)


def token_losses(
    logprob: Tensor,
    advantage: Tensor,
    old_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    objective: Objective,
) -> tuple[Tensor, Tensor, Tensor]:
    """(l, KL, clipped) of each token [C], see Objective; the last two without gradient."""
    old = logprob.detach() if old_logprob is None else old_logprob
    ratio = (logprob - old).exp()
    bounded = ratio.clamp(1 - objective.clip[0], 1 + objective.clip[1])
    loss = -torch.minimum(ratio * advantage, bounded * advantage)
    kl = torch.zeros_like(logprob)
    if ref_logprob is not None:
        difference = ref_logprob - logprob
        kl = torch.expm1(difference) - difference
        loss = loss + objective.beta * kl
    clipped = (bounded * advantage < ratio * advantage).to(logprob.dtype)
    return loss, kl.detach(), clipped.detach()


def completion_states(model: Qwen2VL, part: RolloutPack) -> Tensor:
    """Final states [C, H], each of which predicts a completion token; pictures and videos are seen."""
    kind = part.ids.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else model.dtype
    hidden = model.decoder(
        model.embed(part.packed), part.packed.position_ids, part.attend(dtype), part.keep
    )
    return part.copies(hidden)


def _logprob(hidden: Tensor, head: Tensor, part: RolloutPack, temperature: float) -> Tensor:
    with torch.no_grad():
        return kernels.linear_logprob(hidden, head, part.ids, temperature=temperature)
