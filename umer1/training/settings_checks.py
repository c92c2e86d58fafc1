"""The range of every setting: a value outside of it is an error before anything is loaded."""

from __future__ import annotations

import math
from typing import Any

WHOLE, COUNT, POSITIVE, SHARE = "0 or more", "1 or more", "more than 0", "0 to 1"
_HOLDS = {
    WHOLE: lambda value: value >= 0,
    COUNT: lambda value: value >= 1,
    POSITIVE: lambda value: value > 0,
    SHARE: lambda value: 0 <= value <= 1,
}
# of both stages; each has some of them
RANGES = {
    WHOLE: (
        "steps", "seed", "save_every", "save_every_minutes", "keep_checkpoints", "samples_every", "workers",
        "time_limit_seconds", "microbatch_tokens", "cross_entropy_weight", "align_weight", "hard_negatives",
        "max_prompt_tokens", "clip", "beta", "format_weight", "length_penalty",
    ),
    COUNT: (
        "batch_size", "group_size", "gradient_accumulation", "log_every", "samples_count", "prefetch", "max_length",
        "max_new_tokens", "rollout_slots", "updates_per_rollout",
    ),
    POSITIVE: ("epochs", "scale", "temperature", "normalizer"),
}  # fmt: skip
CHOICES = {
    "mixed_precision": ("no", "bf16"),
    "on_nan": ("stop", "skip"),
    "bad_media": ("fatal", "skip"),
    "reward": ("rank_gap", "rank", "gap", "threshold", "adaptive_threshold"),
    "reference": ("copy", "lora", "precomputed"),
}
OPTIMIZER_RANGES = {
    WHOLE: ("learning_rate", "weight_decay", "clip_grad_norm"),
    SHARE: ("betas", "warmup_ratio"),
}
OPTIMIZER_CHOICES = {"name": ("adamw",), "schedule": ("cosine", "linear", "constant")}


def check_settings(config: Any) -> None:
    """Raises ValueError that names the setting of a RunConfig, what it got and what it wants."""
    _check(config, RANGES, CHOICES)


def check_optimizer(config: Any) -> None:
    """The same of an OptimizerConfig."""
    _check(config, OPTIMIZER_RANGES, OPTIMIZER_CHOICES, "optimizer.")


def _check(config: Any, ranges: dict, choices: dict, section: str = "") -> None:
    for wanted, names in ranges.items():
        for name in names:
            value = getattr(config, name, None)
            several = value if isinstance(value, (tuple, list)) else (value,)
            if value is not None and not all(
                math.isfinite(each) and _HOLDS[wanted](each) for each in several
            ):
                raise ValueError(f"{section}{name}: got {value}, wants {wanted}")
    for name, known in choices.items():
        value = getattr(config, name, known[0])
        if value not in known:
            *others, last = map(repr, known)
            told = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(f"{section}{name}: got {value!r}, wants {told}")
