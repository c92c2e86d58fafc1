"""Whether a checkpoint belongs to the run that wants to go on from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from umer1.training.settings import RLConfig, SFTConfig

# may change without a word: where things are, how often, how fast, on how many processes
_FREE = {
    "output", "data", "data_path", "registry", "local_folders", "workers", "prefetch", "cache_encoded", "log_every",
    "save_every", "save_every_minutes", "keep_checkpoints", "on_nan", "time_limit_seconds",
    "gradient_checkpointing", "deepspeed", "fsdp", "rollout_slots", "microbatch_tokens", "wandb_project",
    "samples_every", "samples_count", "rollout_engine", "rollout_weights", "share_prompts", "max_prompt_tokens",
}  # fmt: skip
# may change, and is said: how long and how fast is learnt, in which precision, what a broken pair does. Whatever is
# in neither list decides what is learnt
_SAID = {
    "steps", "epochs", "mixed_precision", "bad_media", "reference", "optimizer.learning_rate", "optimizer.betas",
    "optimizer.weight_decay", "optimizer.warmup_ratio", "optimizer.schedule", "optimizer.clip_grad_norm",
}  # fmt: skip
# RL's penalty is measured from the model it started from; SFT has that in its weights
_SAID_IN = {"sft": {"model"}, "rl": set()}
_DEFAULTS = {"sft": SFTConfig, "rl": RLConfig}


def check_same_run(saved: dict[str, Any], now: dict[str, Any], folder: Path) -> list[str]:
    """Lines to print about settings that changed since the checkpoint and may.

    Args:
        saved, now: descriptions of the checkpoint's run and of this one (checkpoints.description).

    Raises:
        ValueError: a change after which the checkpoint cannot be continued exactly, or at all.
    """
    _check_processes(saved, now, folder)
    for key in ("pairs", "sources"):
        was, wants = saved["data"].get(key), now["data"].get(key)
        if was is not None and wants is not None and was != wants:
            raise ValueError(_refused("data", _difference(was, wants), folder))
    lines, stage = [], now["stage"]
    # a setting that the checkpoint does not know was as it is by default
    defaults = _flat(json.loads(json.dumps(asdict(_DEFAULTS[stage]()))))
    was, wants = (defaults | _flat(each["config"]) for each in (saved, now))
    for key, change in _changes(was, wants):
        if key in _SAID | _SAID_IN[stage]:
            lines.append(f"{key} has changed since the checkpoint: {change}")
        elif key not in _FREE:
            raise ValueError(_refused(key, change, folder))
    for key, change in _changes(_flat(saved["shape"]), _flat(now["shape"])):
        raise ValueError(_refused("model", f"{key} {change}", folder))
    for name in sorted(saved["versions"].keys() & now["versions"].keys()):
        if saved["versions"][name] != now["versions"][name]:
            lines.append(
                f"{name} was {saved['versions'][name]}, is {now['versions'][name]}: not bit for bit"
            )
    if saved["processes"] != now["processes"]:
        lines.append(
            f"{saved['processes']} processes then, {now['processes']} now: the same batches, sums in "
            f"another order"
        )
    return lines


def _check_processes(saved: dict, now: dict, folder: Path) -> None:
    """DeepSpeed's shards fit the stage and the number of processes that wrote them."""
    if not (saved["kind"].startswith("zero") or now["kind"].startswith("zero")):
        return
    was, wants = (f"{each['kind']} on {each['processes']}" for each in (saved, now))
    if was != wants:
        raise ValueError(
            f"{folder}: was written by {was} processes, this run is {wants}; DeepSpeed's shards fit "
            f"only what wrote them: start as then, or begin a new run from a finished model "
            f"(FSDP2 and DDP checkpoints can change the number)"
        )


def _refused(key: str, change: str, folder: Path) -> str:
    return (
        f"{key}: {change}; {folder} cannot be continued with it. Change it back, or start a new run "
        f"with another `output`"
    )


def _difference(was, wants) -> str:
    if not isinstance(was, dict):
        return f"{was} pairs then, {wants} now"
    name = next(each for each in sorted({*was, *wants}) if was.get(each) != wants.get(each))
    return f"{was.get(name, 0)} pairs of {name!r} then, {wants.get(name, 0)} now"


def _changes(before: dict, after: dict) -> Iterator[tuple[str, str]]:
    """(key, what it was and is) of whatever is not the same in both."""
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield key, f"{before.get(key)!r} then, {after.get(key)!r} now"


def _flat(settings: dict, prefix: str = "") -> dict[str, Any]:
    """Sections by the full names of what is in them; a setting that is itself a mapping as a whole."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict) and key not in ("tiny", "matryoshka", "local_folders"):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
