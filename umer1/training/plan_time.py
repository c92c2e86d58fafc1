"""How long a training step takes: from a measured throughput where there is one, else from stated assumptions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
MFU = 0.40  # assumed of all operations, those computed again included
DECODE_EFFICIENCY = 0.5  # assumed of the time in which weights and cache are read once per token
MODELS = {1536: "2b", 3584: "7b"}  # hidden width -> the benches' name
SUITES = {"sft": "train_sft", "rl": "train_rl"}


@dataclass(frozen=True, slots=True)
class Workload:
    """One round over all GPUs: SFT's optimizer step, or RL's rollouts with their `updates` optimizer steps.

    Lengths are tokens of one side, `visual` of a pair. response 0: nothing is predicted (DUME).
    """

    stage: str
    shapes: ModelConfig
    pairs: int
    prompt: int
    response: int
    visual: int
    freeze_vision: bool
    checkpointing: bool
    grad_cache: bool = False  # one more forward pass
    rollouts: int = 1
    updates: int = 1
    share_prompts: bool = False  # a prompt goes through the model once for its rollouts
    reference: bool = False

    @property
    def sequences(self) -> int:
        return 2 * self.pairs * self.rollouts

    @property
    def prompts(self) -> int:
        """That go through a training pass."""
        return 2 * self.pairs if self.share_prompts else self.sequences

    @property
    def tokens(self) -> int:
        """That one forward and backward pass over the round takes; what a run's log counts per second."""
        return self.prompts * self.prompt + self.sequences * self.response


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a step, where the figure comes from, and what it assumes."""

    seconds: float
    source: str
    assumptions: list[str]


def expected_seconds(work: Workload, gpus: int, throughput: float | None, gpu: str) -> Speed:
    """Of one optimizer step.

    Args:
        throughput: tokens per second as a run's log has them: over all GPUs, in RL of the whole round.

    Raises:
        ValueError: no such GPU, or a throughput that is no number above 0.
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu: got {gpu!r}, wants one of {', '.join(GPUS)}")
    if throughput is not None:
        if not throughput > 0:
            raise ValueError(f"throughput: got {throughput}, wants tokens per second, above 0")
        return Speed(work.tokens / throughput / work.updates, "the throughput given", [])
    if row := measured(work, gpu):
        file, alone = row
        scaling = f"{gpus} GPUs are {gpus} times as fast as one" if gpus > 1 else ""
        lengths = f"the speed of {file}, at this run's lengths"
        seconds = alone / gpus / work.updates
        return Speed(seconds, f"measured, {file}", [text for text in (lengths, scaling) if text])
    operations, bandwidth = GPUS[gpu]
    # what hosts, decoding of media and checkpoints take is not in it
    passes = work.updates * learning_flop(work) * _repeated(work) + other_flop(work)
    seconds = passes / (MFU * operations * gpus)
    repeats = (
        f", {_repeated(work):.2f} times that for what is computed again"
        if _repeated(work) > 1
        else ""
    )
    assumptions = [
        f"nothing measured on a {gpu} yet: {MFU:.0%} of its {operations / 1e12:.0f} TFLOP/s{repeats}",
        "no time for hosts, for media and for checkpoints",
    ]  # fmt: skip
    if work.stage == "rl":
        seconds += decode_seconds(work, gpus, bandwidth)
        assumptions.append(
            f"rollouts at {DECODE_EFFICIENCY:.0%} of the speed at which memory is read ({bandwidth / 1e12:.2g} TB/s)"
        )
    return Speed(seconds / work.updates, "assumed", assumptions)


def learning_flop(work: Workload) -> float:
    """Operations of one forward and backward pass over the round: 2 per weight and token forward, 4 backward;
    recomputation not counted."""
    vision = 2 if work.freeze_vision else 6  # frozen towers have no backward
    return 6 * _decoder(work) + vision * _tower(work)


def other_flop(work: Workload) -> float:
    """Of RL's forward passes: the rollouts' prompts, once each, and the reference."""
    if work.stage == "sft":
        return 0.0
    prompts = replace(work, rollouts=1, response=0, share_prompts=True)
    prefill = 2 * (_decoder(prompts) + _tower(prompts))
    return prefill + (2 * (_decoder(work) + _tower(work)) if work.reference else 0.0)


def _decoder(work: Workload) -> float:
    """Weights of the decoder times the tokens that meet them; attention and the vocabulary as if of weights."""
    config, length = work.shapes, work.prompt + work.response
    layer = _layer_weights(config)
    # causal: a token sees half of what is there at the end; scores and their sum of values
    prompts = work.prompts * work.prompt * (layer + 2 * config.hidden_size * work.prompt / 2)
    seen = (work.prompt + length) / 2
    responses = work.sequences * work.response * (layer + 2 * config.hidden_size * seen)
    head = work.sequences * work.response * config.vocab_size * config.hidden_size
    return config.num_hidden_layers * (prompts + responses) + head


def _tower(work: Workload) -> float:
    """Weights of the vision tower times the patches that meet them."""
    vision = work.shapes.vision
    patches = work.prompts / 2 * work.visual * vision.spatial_merge_size**2
    return patches * vision.depth * (4 + 2 * vision.mlp_ratio) * vision.embed_dim**2


def _repeated(work: Workload) -> float:
    """Passes that are computed, a backward as two, over those that are needed."""
    return (3 + work.checkpointing + work.grad_cache) / 3


def decode_seconds(work: Workload, gpus: int, bandwidth: float) -> float:
    """Rollouts of a round: every token reads the layers and the head once per batch, and each row's cache."""
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
    """(file, seconds of this round on one GPU) from the fastest fitting row of bench/results/*.json, if there is one.

    A row fits that is ours, of the stage's suite, on this GPU and of this model. SFT is scaled by operations, and by
    GradCache's pass, which no row has; RL by the tokens of its sequences, every rollout with its prompt, and by the
    operations of further updates.
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
                seconds = row["median_ms"] / 1e3 * _times(work, sizes)
                found.append((seconds, f"bench/results/{file.name}"))
    return min(found)[::-1] if found else None


def _times(work: Workload, sizes: dict) -> float:
    """How much more than a measured row the round is."""
    if work.stage == "sft":
        plain = replace(work, grad_cache=False)
        return learning_flop(work) / sizes["flop"] * _repeated(work) / _repeated(plain)
    whole = learning_flop(work) + other_flop(work)
    further = (work.updates - 1) * learning_flop(work) / whole
    return work.sequences * (work.prompt + work.response) / sizes["tokens"] * (1 + further)


def _rows(file: Path) -> Iterable[dict]:
    try:
        return json.loads(file.read_text()).get("rows", [])
    except (json.JSONDecodeError, AttributeError):
        return []


def _layer_weights(config: ModelConfig) -> int:
    keys = config.num_key_value_heads * config.head_dim
    width = config.hidden_size
    return width * (2 * width + 2 * keys + 3 * config.intermediate_size)
