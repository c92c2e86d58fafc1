"""Whether a checkpoint belongs to the run that wants to go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# what may change freely: where things go, how often, how fast, on how many processes
_FREE = {
    "output", "data", "data_path", "registry", "workers", "cache_encoded", "log_every", "save_every",
    "save_every_minutes", "keep_checkpoints", "on_nan", "time_limit_seconds", "gradient_checkpointing", "deepspeed",
    "fsdp", "rollout_slots", "microbatch_tokens", "wandb_project", "samples_every", "samples_count",
    "rollout_engine", "rollout_weights",
}  # fmt: skip
# what decides which pairs a step sees, and what there is to load
_FIXED = {
    "batch_size", "group_size", "gradient_accumulation", "seed", "sources", "distinct_targets", "tiny",
    "optimizer.name", "lora", "learn_scale", "freeze_vision", "freeze_merger", "freeze_decoder",
}  # fmt: skip


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
    before, after = _flat(saved["shape"]), _flat(now["shape"])
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            change = f"{key} {before.get(key)!r} then, {after.get(key)!r} now"
            raise ValueError(_refused("model", change, folder))
    before, after = _flat(saved["config"]), _flat(now["config"])
    lines = []
    for key in sorted(before.keys() & after.keys()):
        if before[key] == after[key] or key in _FREE:
            continue
        change = f"{before[key]!r} then, {after[key]!r} now"
        if key in _FIXED or key.split(".")[0] in _FIXED:
            raise ValueError(_refused(key, change, folder))
        lines.append(f"{key} has changed since the checkpoint: {change}")
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


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and key != "tiny":
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
