"""The reference of the KL penalty: the model that RL started from.

Its log-probabilities are computed once per round of rollouts, in one pass without gradient before the first update
(they are one float32 number per completion token), whatever the number of updates that follows.

    copy         a frozen copy beside the policy. Costs the weights once more, all the time.
    precomputed  the frozen copy lies in main memory; its weights come to the device for that pass alone and are gone
                 again before anything is kept for a backward. Exactly the numbers of `copy`; on the GPU the weights
                 are never there together with activations. Costs a transfer of the weights per round.
    lora         the policy with its adapters and learned rows switched off, which is the model it started from as
                 long as nothing but these is trained. Costs no memory.

With beta = 0 there is no reference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.lora import lora_layers, without_adapters
from umer1.training.policy_forward import ScoreForward
from umer1.training.rollout_pack import RolloutPack
from umer1.training.settings import RLConfig


class ReferencePolicy:
    """Make it before the policy is wrapped, sharded or resumed: it keeps the weights of that moment."""

    def __init__(
        self,
        policy: Qwen2VL,
        config: RLConfig,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ):
        """dtype: of the frozen weights, where the policy's will be cast when it is sharded; default: as they are."""
        self.kind, self.device = config.reference, device
        self.frozen: Qwen2VL | None = None
        if self.kind == "lora":
            _require_only_adapters(policy)
            return
        self.frozen = copy.deepcopy(policy).requires_grad_(False).eval().to(dtype)
        if self.kind == "copy":
            self.frozen.to(device)
        elif device.type == "cuda":
            for parameter in self.frozen.parameters():
                parameter.data = parameter.data.pin_memory()

    def score(
        self, model: nn.Module, parts: list[RolloutPack], temperature: float, precision
    ) -> list[Tensor]:
        """float32 [C] of each pack, on its device.

        Args:
            model: the wrapped policy; every process calls it with as many parts.
            precision: makes the context that the wrapped forward computes in (accelerate's autocast).
        """
        works = [ScoreForward(part, temperature) for part in parts]
        with torch.no_grad():
            if self.frozen is None:
                with without_adapters(model):
                    return [model(work) for work in works]
            with self._on_device() as frozen, precision():
                return [work(frozen) for work in works]

    @contextmanager
    def _on_device(self) -> Iterator[Qwen2VL]:
        if self.kind == "copy":
            yield self.frozen
            return
        home = {name: parameter.data for name, parameter in self.frozen.named_parameters()}
        try:
            for parameter in self.frozen.parameters():
                parameter.data = parameter.data.to(self.device, non_blocking=True)
            yield self.frozen
        finally:
            for name, parameter in self.frozen.named_parameters():
                parameter.data = home[name]


def _require_only_adapters(policy: nn.Module) -> None:
    if not lora_layers(policy):
        raise ValueError("reference: got 'lora', but the model has no adapters; wants 'copy' or 'precomputed'")  # fmt: skip
    trained = [
        name
        for name, each in policy.named_parameters()
        if each.requires_grad and "lora_" not in name
    ]
    if trained:
        raise ValueError(
            f"reference: got 'lora', but {trained[0]} is trained too, so the model without adapters "
            f"is not the one it started from; wants 'copy' or 'precomputed'"
        )
