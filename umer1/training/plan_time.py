"""How long a training step takes: from a measured throughput where there is one, else from stated assumptions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from umer1.model.config import ModelConfig

GPU_MEMORY = {"h200": 140, "h100": 80, "a100": 80, "h20": 96, "l40s": 48}  # GiB, about
# dense bf16 operations and bytes of memory per second, from the vendors' data sheets
GPUS = {
    "h200": (989e12, 4.8e12),
    "h100": (989e12, 3.35e12),
    "a100": (312e12, 2.0e12),
    "h20": (148e12, 4.0e12),
    "l40s": (362e12, 0.864e12),
}
MFU = 0.40  # assumed of the model's own operations, without gradient checkpointing
DECODE_EFFICIENCY = 0.5  # assumed of the time in which weights and cache are read once per token
MODELS = {1536: "2b", 3584: "7b"}  # hidden width -> the benches' name
SUITES = {"sft": "train_sft", "rl": "train_rl"}


@dataclass(frozen=True, slots=True)
class Workload:
    """One optimizer step over all GPUs. Lengths are tokens of one side, `visual` of a pair."""

    stage: str
    shapes: ModelConfig
    pairs: int
    prompt: int
    response: int
    visual: int
    rollouts: int
    freeze_vision: bool
    reference: bool

    @property
    def sequences(self) -> int:
        return 2 * self.pairs * self.rollouts

    @property
    def tokens(self) -> int:
        """That go through the forward and backward pass."""
        return self.sequences * (self.prompt + self.response)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a step, where the figure comes from, and what it assumes."""

    seconds: float
    source: str
    assumptions: list[str]


def expected_seconds(
    work: Workload, gpus: int, throughput: float | None, gpu: str, checkpointing: bool
) -> Speed:
    """Of one optimizer step.

    Args:
        throughput: tokens per second of the training passes over all GPUs (rollouts included in RL), if known.

    Raises:
        ValueError: no such GPU, or a throughput that is no number above 0.
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu: got {gpu!r}, wants one of {', '.join(GPUS)}")
    if throughput is not None:
        if not throughput > 0:
            raise ValueError(f"throughput: got {throughput}, wants tokens per second, above 0")
        return Speed(work.tokens / throughput, "the throughput given", [])
    if row := measured(work, gpu):
        file, alone = row
        scaling = f"{gpus} GPUs are {gpus} times as fast as one" if gpus > 1 else ""
        lengths = f"the speed of {file}, at this run's lengths"
        return Speed(
            alone / gpus, f"measured, {file}", [text for text in (lengths, scaling) if text]
        )
    operations, bandwidth = GPUS[gpu]
    mfu = MFU * (0.75 if checkpointing else 1.0)
    seconds = flop(work) / (mfu * operations * gpus)
    assumptions = [
        f"nothing measured on a {gpu} yet: {MFU:.0%} of its {operations / 1e12:.0f} TFLOP/s"
        + (", three quarters of that with gradient checkpointing" if checkpointing else "")
    ]
    if work.stage == "rl":
        seconds += decode_seconds(work, gpus, bandwidth)
        assumptions.append(
            f"rollouts at {DECODE_EFFICIENCY:.0%} of the speed at which memory is read ({bandwidth / 1e12:.2g} TB/s)"
        )
    return Speed(seconds, "assumed", assumptions)


def flop(work: Workload) -> float:
    """Operations of the model in one step: 2 per weight and token forward, 4 backward; recomputation not counted."""
    config = work.shapes
    length = work.prompt + work.response
    layer = _layer_weights(config)
    products = config.num_hidden_layers * layer
    attention = config.num_hidden_layers * 2 * config.hidden_size * length / 2  # causal: half
    head = config.vocab_size * config.hidden_size * work.response / length
    forward_and_backward = 6 * work.tokens * (products + attention + head)
    reference = 2 * work.tokens * (products + attention + head) if work.reference else 0
    # a rollout's media are encoded again in its own training pass; frozen towers have no backward
    patches = work.pairs * work.rollouts * work.visual * config.vision.spatial_merge_size**2
    tower = config.vision.depth * (4 + 2 * config.vision.mlp_ratio) * config.vision.embed_dim**2
    vision = (2 if work.freeze_vision else 6) * patches * tower
    return forward_and_backward + reference + vision


def decode_seconds(work: Workload, gpus: int, bandwidth: float) -> float:
    """Rollouts of one step: every token reads the layers and the head once per batch, and each row's cache."""
    config = work.shapes
    weights = 2 * (
        config.num_hidden_layers * _layer_weights(config) + config.vocab_size * config.hidden_size
    )
    keys = config.num_key_value_heads * config.head_dim
    row = 4 * config.num_hidden_layers * keys * (work.prompt + work.response / 2)
    rows = work.sequences / gpus
    # a batch lasts as long as its longest row: about twice the mean
    return 2 * work.response * (weights + rows * row) / (bandwidth * DECODE_EFFICIENCY)


def measured(work: Workload, gpu: str, folder: Path | None = None) -> tuple[str, float] | None:
    """(file, seconds of this step on one GPU) from the fastest fitting row of bench/results/*.json, if there is one.

    A row fits that is ours, of the stage's suite, on this GPU and of this model. SFT is scaled by operations, RL by
    the tokens of its rollouts.
    """
    folder = folder or Path(__file__).resolve().parents[2] / "bench" / "results"
    model = MODELS.get(work.shapes.hidden_size)
    found: list[tuple[float, str]] = []
    for file in sorted(folder.glob("*.json")):
        for row in _rows(file):
            sizes = row.get("sizes", {})
            fits = (
                row.get("suite") == SUITES[work.stage]
                and row.get("family") == "umer1"
                and gpu in str(row.get("hardware", "")).lower()
                and sizes.get("model") == model
                and row.get("median_ms")
            )
            if fits:
                unit = "flop" if work.stage == "sft" else "tokens"
                amount = flop(work) if work.stage == "sft" else work.tokens
                seconds = row["median_ms"] / 1e3 * amount / sizes[unit]
                found.append((seconds, f"bench/results/{file.name}"))
    return min(found)[::-1] if found else None


def _rows(file: Path) -> Iterable[dict]:
    try:
        return json.loads(file.read_text()).get("rows", [])
    except (json.JSONDecodeError, AttributeError):
        return []


def _layer_weights(config: ModelConfig) -> int:
    keys = config.num_key_value_heads * config.head_dim
    width = config.hidden_size
    return width * (2 * width + 2 * keys + 3 * config.intermediate_size)
