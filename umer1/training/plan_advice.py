"""Single changes to a run that may make it fit, mildest first."""

from __future__ import annotations

from typing import Any, NamedTuple

from umer1.training.plan_memory import SHARDINGS
from umer1.training.settings import RLConfig, SFTConfig


class Change(NamedTuple):
    """asked: fields of the question that change; settings: of the config."""

    text: str
    asked: dict[str, Any]
    settings: dict[str, Any]


def possible_changes(config: SFTConfig | RLConfig, gpus: int, sharding: str) -> list[Change]:
    """What could be changed at all."""
    reinforced = isinstance(config, RLConfig)
    found = []
    if not config.gradient_checkpointing:
        found.append(_set("gradient_checkpointing", True, "about a third slower"))
    if not reinforced and not config.microbatch_tokens:
        found.append(_set("microbatch_tokens", 16384, "GradCache, one more forward pass"))
    if reinforced and config.beta and config.reference == "copy":
        found.append(_set("reference", "precomputed", "its weights come for one pass"))
    if config.mixed_precision == "no":
        found.append(_set("mixed_precision", "bf16"))
    if gpus > 1:
        others = SHARDINGS[SHARDINGS.index(sharding) + 1 :]
        if (
            reinforced and sharding == "fsdp"
        ):  # whose rollouts gather float32 weights and round them
            others = ("zero3",)
        found += [Change(f"shard with {name}", {"sharding": name}, {}) for name in others]
    smaller = {"microbatch_tokens": (8192, 4096), "rollout_slots": (64, 32)} if reinforced else {}
    for key, sizes in smaller.items():
        found += [_set(key, size) for size in sizes if size < getattr(config, key)]
    for more in (2 * gpus, 4 * gpus, 8 * gpus):
        if _divides(config, more):
            found.append(Change(f"use {more} GPUs", {"gpus": more}, {}))
    if not config.freeze_vision:
        found.append(_set("freeze_vision", True, "the release trains it here"))
    return found


def _set(key: str, value: Any, note: str = "") -> Change:
    shown = str(value).lower() if isinstance(value, bool) else value
    return Change(f"set {key}: {shown}" + (f" ({note})" if note else ""), {}, {key: value})


def _divides(config: SFTConfig | RLConfig, gpus: int) -> bool:
    try:
        config.check_processes(gpus)
    except ValueError:
        return False
    return True
