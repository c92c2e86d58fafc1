"""Operations that a step of training needs, which its model FLOP utilisation counts: nothing is computed twice.

Two per multiply-add of every matrix product and of attention over what it may see. A trained part costs three times its
forward, a frozen one its forward. The vocabulary counts for the tokens that are supervised, a prompt and its picture once
for all rollouts. Recomputation by gradient checkpointing, padding and logits that nobody reads are no use and do not count.

Legend: T tokens of a sequence, P patches of a picture, D layers, H width.
"""

from __future__ import annotations

from bench.training.workload import SIDES, TrainingWorkload
from umer1.model import ModelConfig, Sequence

TRAINED, FORWARD = 3, 1


def sft_flop(workload: TrainingWorkload) -> int:
    """One batch, forward and backward, the tower frozen and its merger trained."""
    config, total = workload.config, 0
    for side in SIDES:
        for sequence, response in zip(workload.sequences(side), workload.responses[side]):
            tokens = len(sequence)
            total += TRAINED * (_layers(config, tokens, tokens) + _head(config, len(response)))
            tower, merger = _vision(config, sequence)
            total += FORWARD * tower + TRAINED * merger
    return total


def rl_flop(workload: TrainingWorkload) -> int:
    """Rollouts (a forward), policy (with backward, tower included) and reference (a forward), prompts shared."""
    config, total = workload.config, 0
    passes = FORWARD + TRAINED + FORWARD
    for side in SIDES:
        rows, responses = workload.rollouts, workload.responses[side]
        for number, prompt in enumerate(workload.prompts[side]):
            length = len(prompt)
            total += passes * (_layers(config, length, length) + sum(_vision(config, prompt)))
            for response in responses[number * rows : (number + 1) * rows]:
                written = len(response)
                seen = length + written / 2  # on average, half of what was written included
                total += passes * (_layers(config, written, 2 * seen) + _head(config, written))
    return int(total)


def _layers(config: ModelConfig, tokens: int, context: float) -> int:
    """Forward of the decoder's layers over T tokens, each of which sees half of `context` on average."""
    width, size = config.hidden_size, config.head_dim
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    weights = width * size * (2 * heads + 2 * keys) + 3 * width * config.intermediate_size
    attention = 2 * heads * size * context / 2  # scores and their sum of values
    return int(2 * config.num_hidden_layers * tokens * (weights + attention))


def _head(config: ModelConfig, tokens: int) -> int:
    return 2 * tokens * config.hidden_size * config.vocab_size


def _vision(config: ModelConfig, sequence: Sequence) -> tuple[int, int]:
    """Forward of the tower's blocks, and of its merger."""
    vision, tower, merger = config.vision, 0, 0
    width = vision.embed_dim
    inputs = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    block = width * width * (4 + 2 * vision.mlp_ratio)
    for frames, height, wide in sequence.grid_thw.tolist():
        patches = frames * height * wide
        attention = 2 * width * height * wide
        tower += 2 * patches * (inputs * width + vision.depth * (block + attention))
        merged = width * vision.spatial_merge_size**2
        rows = patches // vision.spatial_merge_size**2
        merger += 2 * rows * merged * (merged + config.hidden_size)
    return tower, merger
