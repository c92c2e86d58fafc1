"""Where each tensor of a Hugging Face checkpoint lives in our modules.

Original key names ("visual.*", "model.layers.*", "lm_head.weight") are written; those of
transformers 5 ("model.visual.*", "model.language_model.*") are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from umer1.model.config import ModelConfig
from umer1.model.qwen2_vl import Qwen2VL

# Buffers that old releases saved; recomputed here.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$|rotary_pos_emb\.inv_freq$")


def canonical_key(key: str) -> str | None:
    """The original name of a checkpoint key; None for a key that holds no weight."""
    if _IGNORED.search(key):
        return None
    key = re.sub(r"^model\.visual\.", "visual.", key)
    return re.sub(r"^model\.language_model\.", "model.", key)


def checkpoint_tensors(model: Qwen2VL) -> Iterator[tuple[str, Tensor]]:
    """(original key, view of our parameter) for every tensor of the checkpoint, in its shape."""
    config = model.config
    yield from _vision_tensors(model, config)
    decoder = model.decoder
    yield "model.embed_tokens.weight", decoder.embed.weight
    for number, layer in enumerate(decoder.layers):
        prefix = f"model.layers.{number}."
        sizes = [
            heads * config.head_dim
            for heads in (layer.query_heads, layer.key_heads, layer.key_heads)
        ]
        for kind in ("weight", "bias"):
            parts = getattr(layer.qkv, kind).split(sizes)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                yield f"{prefix}self_attn.{name}.{kind}", part
        yield prefix + "self_attn.o_proj.weight", layer.output.weight
        gate, up = layer.gate_up.weight.chunk(2)
        yield prefix + "mlp.gate_proj.weight", gate
        yield prefix + "mlp.up_proj.weight", up
        yield prefix + "mlp.down_proj.weight", layer.down.weight
        yield prefix + "input_layernorm.weight", layer.input_norm.weight
        yield prefix + "post_attention_layernorm.weight", layer.post_norm.weight
    yield "model.norm.weight", decoder.norm.weight
    if model.head is not None:
        yield "lm_head.weight", model.head.weight


def _vision_tensors(model: Qwen2VL, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    tower, vision = model.vision, config.vision
    yield (
        "visual.patch_embed.proj.weight",
        tower.patch_embed.weight.view(
            vision.embed_dim,
            vision.in_channels,
            vision.temporal_patch_size,
            vision.patch_size,
            vision.patch_size,
        ),
    )
    for number, block in enumerate(tower.blocks):
        prefix = f"visual.blocks.{number}."
        modules = {
            "norm1": block.norm1,
            "norm2": block.norm2,
            "attn.qkv": block.qkv,
            "attn.proj": block.proj,
            "mlp.fc1": block.fc1,
            "mlp.fc2": block.fc2,
        }
        for name, module in modules.items():
            yield f"{prefix}{name}.weight", module.weight
            yield f"{prefix}{name}.bias", module.bias
    merger = {"ln_q": tower.merger.norm, "mlp.0": tower.merger.fc1, "mlp.2": tower.merger.fc2}
    for name, module in merger.items():
        yield f"visual.merger.{name}.weight", module.weight
        yield f"visual.merger.{name}.bias", module.bias
