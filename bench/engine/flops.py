"""The arithmetic a prompt needs: products of the linear layers and of attention, a multiply and an add each."""

from __future__ import annotations

from torch import nn

from umer1.model import Qwen2VL, Sequence


def vision_flop(model: Qwen2VL, sequence: Sequence) -> float:
    """Of the tower and its merger, for the media of one prompt; every frame attends to itself."""
    if sequence.pixel_values is None:
        return 0.0
    config, tower = model.config.vision, model.vision
    patches = len(sequence.pixel_values)
    merged = patches / config.spatial_merge_size**2
    per_patch = sum(_weights(module) for name, module in tower.named_children() if name != "merger")
    frames = [(int(t), int(h * w)) for t, h, w in sequence.grid_thw.tolist()]
    pairs = sum(count * size**2 for count, size in frames)
    attention = 4 * pairs * config.embed_dim * config.depth
    return 2 * per_patch * patches + 2 * _weights(tower.merger) * merged + attention


def prefill_flop(model: Qwen2VL, sequence: Sequence) -> float:
    """Of the decoder for every token of one prompt, causal attention, and of the head for the last token."""
    config, length = model.config, len(sequence)
    heads = config.num_attention_heads * config.head_dim
    attention = 2 * length * (length + 1) * heads * config.num_hidden_layers
    return 2 * _weights(model.decoder.layers) * length + attention + 2 * model.head_weight.numel()


def _weights(module: nn.Module) -> int:
    """Numbers in matrices: each is used once per row."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
