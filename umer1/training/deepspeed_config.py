"""A DeepSpeed JSON with its "auto" entries filled from the training config.

The released zero3.json is read as it is. What umer1's own config decides (optimizer, schedule, batch size) must not
be decided twice: an entry of the JSON that says something else is an error.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from umer1.training.settings import RunConfig

AUTO = "auto"
SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}


def read_deepspeed(path: str | Path) -> dict[str, Any]:
    """The JSON as it stands; ValueError names the file when it is none or has no ZeRO stage from 1 to 3."""
    try:
        settings = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"deepspeed: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"deepspeed: {path} is not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"deepspeed: {path} holds {type(settings).__name__}, wants an object")
    zero_stage(settings)
    return settings


def zero_stage(settings: dict[str, Any]) -> int:
    """1, 2 or 3."""
    stage = settings.get("zero_optimization", {}).get("stage")
    if stage not in (1, 2, 3):
        raise ValueError(
            f"deepspeed: zero_optimization.stage is {stage!r}, wants 1, 2 or 3 "
            f"(for plain data parallelism leave `deepspeed` out)"
        )
    return stage


def filled(
    settings: dict[str, Any], config: RunConfig, *, processes: int, hidden_size: int
) -> dict[str, Any]:
    """The settings DeepSpeed runs with; `settings` stays as it is.

    Losses are divided by the accumulation before the backward pass, here as without DeepSpeed; so its own division
    is switched off where it is called (`scale_wrt_gas`), and its count says only whether gradients add up.
    """
    result = copy.deepcopy(settings)
    bf16 = config.mixed_precision == "bf16"
    here = config.batch_size // processes
    _optimizer(result)
    _scheduler(result, config.optimizer.schedule)
    accumulation = config.gradient_accumulation
    _fill(result, "bf16.enabled", bf16, "mixed_precision", missing=bf16)
    _fill(result, "fp16.enabled", False, "mixed_precision", missing=None)
    _fill(result, "gradient_clipping", config.optimizer.clip_grad_norm, "optimizer.clip_grad_norm")
    _fill(result, "train_micro_batch_size_per_gpu", here, "batch_size / processes")
    _fill(result, "gradient_accumulation_steps", accumulation, "gradient_accumulation")
    _fill(result, "train_batch_size", here * accumulation * processes, "the batch of a step")
    # from 2 on DeepSpeed keeps gradients between backward passes; how many there are, umer1 tells it
    result["gradient_accumulation_steps"] = max(2, accumulation)
    result["train_batch_size"] = here * result["gradient_accumulation_steps"] * processes
    zero = result["zero_optimization"]
    for key, value in (
        ("reduce_bucket_size", hidden_size * hidden_size),
        ("stage3_prefetch_bucket_size", int(0.9 * hidden_size * hidden_size)),
        ("stage3_param_persistence_threshold", 10 * hidden_size),
    ):
        if zero.get(key) == AUTO:
            zero[key] = value
    result.setdefault("steps_per_print", 10**9)
    # the optimizer is torch's AdamW, on the CPU too when its state is offloaded
    result.setdefault("zero_allow_untested_optimizer", True)
    result.setdefault("zero_force_ds_cpu_optimizer", False)
    if left := sorted(_autos(result)):
        raise ValueError(f"deepspeed: {left[0]} is 'auto', which umer1 has no value for; set it")
    return result


def _optimizer(settings: dict) -> None:
    """Drops the section; an error where it is another optimizer than ours."""
    kind = _decided_elsewhere(settings, "optimizer")
    if kind not in (None, "AdamW", "Adam"):
        raise ValueError(
            f"deepspeed: optimizer.type is {kind!r}, but umer1 trains with AdamW; take the section out of the JSON"
        )


def _scheduler(settings: dict, schedule: str) -> None:
    """Drops the section; an error where it is another schedule than ours."""
    kind = _decided_elsewhere(settings, "scheduler")
    if kind is not None and SCHEDULES.get(kind) != schedule:
        raise ValueError(
            f"deepspeed: scheduler.type is {kind!r}, but optimizer.schedule of the training config is {schedule!r}; "
            f"take the section out of the JSON, the schedule is one of {', '.join(SCHEDULES.values())} there"
        )


def _decided_elsewhere(settings: dict, section: str) -> str | None:
    """Takes out a section all of whose values are "auto" (any other would contradict the training config): its type."""
    found = settings.pop(section, {})
    for name, value in found.get("params", {}).items():
        if value != AUTO:
            raise ValueError(
                f"deepspeed: has its own {section} ({name} is {value!r}); take it out of the JSON and set it in "
                f"the training config (optimizer.learning_rate, optimizer.schedule, ...)"
            )
    return found.get("type")


def _fill(settings: dict, key: str, value, source: str, missing=...) -> None:
    """Sets `key` where it is "auto" or absent; another value than ours is an error. missing None: leave absent."""
    *parents, leaf = key.split(".")
    if missing is None and parents and parents[0] not in settings:
        return
    inner = settings
    for parent in parents:
        inner = inner.setdefault(parent, {})
    given = inner.get(leaf, AUTO)
    if given != AUTO and given != value:
        raise ValueError(
            f"deepspeed: {key} is {given!r}, but {source} of the training config makes it {value!r}; "
            f'change one of them or write "auto"'
        )
    inner[leaf] = value


def _autos(settings: dict, prefix: str = ""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{prefix}{key}.")
        elif value == AUTO:
            yield prefix + key
