"""How much memory a training step needs on each GPU, from a model's shapes alone.

Legend: P all parameters, T trainable ones, n GPUs, H hidden width, F inner width, K width of keys (= of values), E the
tower's width, V vocabulary. Bytes throughout. What is counted is what this package's own forward keeps for the
backward pass (umer1/model/decoder.py, fused.py, vision.py); tests/training/test_plan_memory.py measures it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.settings import RunConfig
from umer1.training.trainable import choose_trainable
from umer1_kernels.plans import chunk_rows

SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "fsdp")
ZERO3_LIVE = (
    1_000_000_000  # stage3_max_live_parameters, DeepSpeed's default and the released file's
)
CONTEXT = 1_500_000_000  # CUDA context, NCCL buffers, cuBLAS workspaces: an assumption
FRAGMENTATION = 0.05  # of everything else: an assumption

# the released bases, from their config.json; a directory's own config.json is read instead
_TOWER = dict(depth=32, embed_dim=1280, num_heads=16)
KNOWN_MODELS = {
    "2b": dict(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "7b": dict(
        vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    ),
}  # fmt: skip
KNOWN_NAMES = {
    f"{owner}-{size.upper()}{tail}".lower(): size
    for size in KNOWN_MODELS
    for owner, tail in (("Qwen/Qwen2-VL", ""), ("Qwen/Qwen2-VL", "-Instruct"), ("zhibinlan/UME-R1", ""))
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counts:
    """Parameters by where they are."""

    decoder: int  # layers and norms
    embeddings: int  # table and, untied, head
    tower: int
    merger: int
    largest_layer: int
    trainable: int
    adapters: int  # of the trainable ones, LoRA's

    @property
    def all(self) -> int:
        return self.decoder + self.embeddings + self.tower + self.merger + self.adapters


def read_shapes(model: str, base: str | Path = ".") -> ModelConfig:
    """Of a directory with a config.json, or of one of the released models by their hub names.

    Raises:
        ValueError: neither.
    """
    for folder in (Path(model), Path(base) / model):
        if (folder / "config.json").is_file():
            return ModelConfig.from_dict(json.loads((folder / "config.json").read_text()))
    size = KNOWN_NAMES.get(model.lower())
    if size is None:
        known = ", ".join(sorted(KNOWN_NAMES))
        raise ValueError(
            f"model: no config.json in {model!r}, and its shapes are not known by name (known: {known}); "
            f"give --model a directory that holds the config.json, weights are not needed"
        )
    values = KNOWN_MODELS[size]
    return ModelConfig(**values, vision=VisionConfig(hidden_size=values["hidden_size"], **_TOWER))


def count_parameters(config: ModelConfig, settings: RunConfig | None = None) -> Counts:
    """Exactly, from a model without storage.

    settings: whose freeze rules and LoRA say what is trained; None: everything is.
    """
    # one layer and one block stand for all: they are alike
    one = replace(config, num_hidden_layers=1, vision=replace(config.vision, depth=1))
    times = {"decoder.layers.": config.num_hidden_layers, "vision.blocks.": config.vision.depth}

    def size(model: Qwen2VL, begin: str = "", learned: bool = False) -> int:
        return sum(
            parameter.numel() * next((n for start, n in times.items() if name.startswith(start)), 1)
            for name, parameter in model.named_parameters()
            if name.startswith(begin) and (parameter.requires_grad or not learned)
        )

    with torch.device("meta"):
        model = Qwen2VL(one)
        before = size(model)
        table, head = size(model, "decoder.embed."), size(model, "head.")
        merger, layers = size(model, "vision.merger."), size(model, "decoder.layers.")
        found = Counts(
            decoder=size(model, "decoder.") - table,
            embeddings=table + head,
            tower=size(model, "vision.") - merger,
            merger=merger,
            largest_layer=layers // config.num_hidden_layers,
            trainable=before,
            adapters=0,
        )
        if settings is None:
            return found
        choose_trainable(model, settings, tokens=(0, 1))  # two rows, whichever they are
    return replace(found, trainable=size(model, learned=True), adapters=size(model) - before)


def state_bytes(counts: Counts, sharding: str, gpus: int, mixed_precision: str) -> dict[str, int]:
    """Weights, gradients, optimizer (AdamW) and what communication holds, on each GPU.

    ddp and fsdp keep float32 weights and moments and multiply in bf16 copies; DeepSpeed keeps bf16 weights and
    gradients and float32 master weights beside the moments.
    """
    if sharding not in SHARDINGS:
        raise ValueError(f"sharding: got {sharding!r}, wants one of {', '.join(SHARDINGS)}")
    everything, trainable, half = counts.all, counts.trainable, mixed_precision == "bf16"
    copies = (
        2 * everything if half else 0
    )  # autocast keeps its bf16 copies until the forward is over
    if sharding == "ddp":
        buckets = 4 * trainable if gpus > 1 else 0
        return _state(4 * everything, 4 * trainable, 8 * trainable, buckets + copies)
    if sharding == "fsdp":
        # two layers (one ahead) and the root's group, unsharded
        item = 2 if half else 4
        gathered = item * (2 * counts.largest_layer + counts.embeddings)
        return _state(4 * everything // gpus, 4 * trainable // gpus, 8 * trainable // gpus, gathered)  # fmt: skip
    master = 12 if half else 8
    item = 2 if half else 4
    weights, gradients, moments = item * everything, item * trainable, master * trainable
    if sharding == "zero1":
        return _state(weights, gradients, moments // gpus, 0)
    if sharding == "zero2":
        return _state(weights, gradients // gpus, moments // gpus, 2 * item * 500_000_000)
    live = item * min(everything, max(ZERO3_LIVE, counts.embeddings)) if gpus > 1 else 0
    return _state(weights // gpus, gradients // gpus, moments // gpus, live)


def _state(weights: int, gradients: int, optimizer: int, communication: int) -> dict[str, int]:
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "communication": communication,
    }


def activations(
    config: ModelConfig,
    tokens: int,
    visual_tokens: int,
    *,
    checkpointing: bool,
    freeze_vision: bool,
    item: int,
    residual: int,
) -> tuple[int, int, int]:
    """What a forward and backward pass over `tokens` packed tokens holds, `visual_tokens` of them from the tower.

    Args:
        item: bytes of an element inside a layer; residual: of the stream between layers (4 under autocast).

    Returns:
        At work in one layer (its gradients; what checkpointing has made again); kept by the decoder; by the tower.
    """
    width, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * config.head_dim
    # norms keep their input; the products keep theirs: normed states twice, attention's output, swiglu's result;
    # attention keeps query, key, value and output (the same as a product's input), swiglu keeps gate and up
    layer = tokens * (residual * 2 * width + 2 * 4 + item * (4 * width + 2 * keys + 3 * inner))
    stream = tokens * residual * width
    gradients = tokens * (2 * residual * width + item * 4 * inner)
    depth, end = config.num_hidden_layers, 2 * stream
    tower = _tower_bytes(config, visual_tokens, checkpointing, freeze_vision, item)
    if checkpointing:
        return layer + gradients, depth * stream + end, tower
    return gradients, depth * layer + end, tower


def _tower_bytes(
    config: ModelConfig, visual_tokens: int, checkpointing: bool, frozen: bool, item: int
) -> int:
    vision = config.vision
    width = vision.embed_dim
    patches = visual_tokens * vision.spatial_merge_size**2
    # the merger: its norm's input and output, gelu's input and output
    merger = item * patches * width * 4
    if frozen:
        return merger  # blocks keep nothing
    if checkpointing:
        return merger + vision.depth * item * patches * width
    # two norms (input, output), query, key, value, output, quick_gelu's input and output
    return merger + vision.depth * item * patches * width * (8 + 2 * vision.mlp_ratio)


def loss_bytes(config: ModelConfig, item: int) -> int:
    """The linear loss: one chunk of logits and of their gradient, and the float32 sum of the head's gradient.

    The logits of all tokens, 6 bytes x tokens x vocabulary in the usual form, never exist.
    """
    rows = chunk_rows(config.vocab_size, item, "cuda")
    return rows * config.vocab_size * (4 + item) + 4 * config.vocab_size * config.hidden_size


def cache_bytes(config: ModelConfig, tokens: int, item: int) -> int:
    """Keys and values of `tokens` tokens in all layers."""
    keys = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * keys * item * tokens
