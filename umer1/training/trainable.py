"""Which parameters are trained, and which of them decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.lora import add_lora
from umer1.training.settings import RunConfig


def choose_trainable(model: Qwen2VL, config: RunConfig, tokens: Sequence[int] = ()) -> Qwen2VL:
    """Sets `requires_grad` as the config's freeze rules and LoRA say; adds the adapters.

    The released SFT freezes the vision tower and trains its merger and the whole decoder (with the
    embedding table and the head). With LoRA the decoder is frozen and its adapters are trained, and of the
    table and the head the rows of `tokens`, the two embedding tokens, which a base model has only as copies; the
    merger goes on being trained whole unless `freeze_merger`. What is trained has a gradient in every
    step, zero if need be: a checkpoint holds the optimizer's state of all of it, and processes wait
    for each other's.

    Raises:
        ValueError: nothing is left to train, or LoRA's settings are wrong.
    """
    model.requires_grad_(True)
    model.vision.requires_grad_(not config.freeze_vision)
    model.vision.merger.requires_grad_(not config.freeze_merger)
    if config.lora.rank and config.freeze_decoder:
        raise ValueError("freeze_decoder: leaves no place for lora; choose one of the two")
    decoder_frozen = config.freeze_decoder or config.lora.rank > 0
    model.decoder.requires_grad_(not decoder_frozen)
    writes = getattr(config, "generative", True)
    if model.head is not None:  # the disc vectors alone do not read it
        model.head.requires_grad_(writes and not decoder_frozen)
    # a batch of texts alone sends a blank cell through the tower
    model.always_see = any(each.requires_grad for each in model.vision.parameters())
    if config.lora.rank:
        add_lora(model, config.lora, tokens, head=writes)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "freeze_vision, freeze_merger, freeze_decoder: all are true, nothing is left to train"
        )
    return model


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict]:
    """The trainable parameters for an optimizer; a learnable scale does not decay (to a scale of 1)."""
    named = [each for each in module.named_parameters() if each[1].requires_grad]
    scale = [parameter for name, parameter in named if name.endswith("log_scale")]
    others = [parameter for name, parameter in named if not name.endswith("log_scale")]
    groups = [{"params": others, "weight_decay": weight_decay}]
    return groups + [{"params": scale, "weight_decay": 0.0}] if scale else groups
