"""Where each tensor of a Hugging Face checkpoint lives in our modules.

Original key names ("visual.*", "model.layers.*", "lm_head.weight") are written; those of
transformers 5 ("model.visual.*", "model.language_model.*") are read as well.

Two things differ from a checkpoint. Query, key and value (and gate and up) are one parameter.
And the rows of query and key heads are in another order: a checkpoint rotates rows i and
i + D/2 of a head together, here they are rows 2i and 2i + 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from umer1.model.config import ModelConfig
from umer1.model.qwen2_vl import Qwen2VL

# Buffers that old releases saved; recomputed here.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$|rotary_pos_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """One tensor of a checkpoint, as views of our parameters that follow each other in it."""

    key: str
    shape: tuple[int, ...]
    views: tuple[Tensor, ...]

    def read(self) -> Tensor:
        """The tensor in the checkpoint's shape and order, contiguous; maybe our own memory."""
        flat = torch.cat([view.detach().flatten() for view in self.views])
        return flat.view(self.shape)

    def write(self, tensor: Tensor) -> None:
        """Copies a checkpoint's tensor into our parameters."""
        parts = tensor.flatten().split([view.numel() for view in self.views])
        for view, part in zip(self.views, parts, strict=True):
            view.copy_(part.view(view.shape))


def canonical_key(key: str) -> str | None:
    """The original name of a checkpoint key; None for a key that holds no weight."""
    if _IGNORED.search(key):
        return None
    key = re.sub(r"^model\.visual\.", "visual.", key)
    return re.sub(r"^model\.language_model\.", "model.", key)


def checkpoint_tensors(model: Qwen2VL) -> Iterator[CheckpointTensor]:
    """Every tensor of the checkpoint of `model`."""
    yield from _vision_tensors(model, model.config)
    decoder, size = model.decoder, model.config.head_dim
    yield _whole("model.embed_tokens.weight", decoder.embed.weight)
    for number, layer in enumerate(decoder.layers):
        prefix = f"model.layers.{number}."
        heads = {"q_proj": layer.query_heads, "k_proj": layer.key_heads, "v_proj": layer.key_heads}
        for kind in ("weight", "bias"):
            rows = getattr(layer.qkv, kind).split([count * size for count in heads.values()])
            for name, part in zip(heads, rows, strict=True):
                view = part if name == "v_proj" else pairs_apart(part, size)
                yield CheckpointTensor(
                    f"{prefix}self_attn.{name}.{kind}", tuple(part.shape), (view,)
                )
        yield _whole(prefix + "self_attn.o_proj.weight", layer.output.weight)
        gate, up = layer.gate_up.weight.chunk(2)
        yield _whole(prefix + "mlp.gate_proj.weight", gate)
        yield _whole(prefix + "mlp.up_proj.weight", up)
        yield _whole(prefix + "mlp.down_proj.weight", layer.down.weight)
        yield _whole(prefix + "input_layernorm.weight", layer.input_norm.weight)
        yield _whole(prefix + "post_attention_layernorm.weight", layer.post_norm.weight)
    yield _whole("model.norm.weight", decoder.norm.weight)
    if model.head is not None:
        yield _whole("lm_head.weight", model.head.weight)


def _vision_tensors(model: Qwen2VL, config: ModelConfig) -> Iterator[CheckpointTensor]:
    tower, vision = model.vision, config.vision
    patch = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    yield CheckpointTensor(
        "visual.patch_embed.proj.weight",
        (vision.embed_dim, vision.in_channels, *patch),
        (tower.patch_embed.weight,),
    )
    for number, block in enumerate(tower.blocks):
        prefix = f"visual.blocks.{number}."
        for kind in ("weight", "bias"):
            fused = getattr(block.qkv, kind)
            turned, value = fused.split([2 * vision.embed_dim, vision.embed_dim])
            yield CheckpointTensor(
                f"{prefix}attn.qkv.{kind}",
                tuple(fused.shape),
                (pairs_apart(turned, vision.head_dim), value),
            )
        yield from _linear(prefix + "attn.proj", block.proj)
        yield from _linear(prefix + "norm1", block.norm1)
        yield from _linear(prefix + "norm2", block.norm2)
        yield from _linear(prefix + "mlp.fc1", block.fc1)
        yield from _linear(prefix + "mlp.fc2", block.fc2)
    yield from _linear("visual.merger.ln_q", tower.merger.norm)
    yield from _linear("visual.merger.mlp.0", tower.merger.fc1)
    yield from _linear("visual.merger.mlp.2", tower.merger.fc2)


def _linear(prefix: str, module: nn.Linear | nn.LayerNorm) -> Iterator[CheckpointTensor]:
    yield _whole(prefix + ".weight", module.weight)
    yield _whole(prefix + ".bias", module.bias)


def _whole(key: str, tensor: Tensor) -> CheckpointTensor:
    return CheckpointTensor(key, tuple(tensor.shape), (tensor,))


def pairs_apart(rows: Tensor, head_dim: int) -> Tensor:
    """A view of rows [heads * D, ...] in the checkpoint's order: [heads, 2, D/2, ...]."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2)
