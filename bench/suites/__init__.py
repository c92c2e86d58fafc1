"""The suites by name. Each module has `cases(device, quick)`: what it measures there, small shapes if `quick`."""

from __future__ import annotations

from bench.case import Case
from bench.suites import (
    decode_attention,
    dual_info_nce,
    engine_decode,
    engine_disc,
    engine_generate,
    engine_memory,
    engine_phases,
    eval_mini,
    gather_hidden,
    group_reward,
    grpo_loss,
    info_nce,
    linear_cross_entropy,
    linear_logprob,
    packed_linear,
    sampler,
    train_rl,
    train_sft,
)

MODULES = {
    "info_nce": info_nce,
    "dual_info_nce": dual_info_nce,
    "linear_cross_entropy": linear_cross_entropy,
    "linear_logprob": linear_logprob,
    "grpo_loss": grpo_loss,
    "group_reward": group_reward,
    "gather_hidden": gather_hidden,
    "decode_attention": decode_attention,
    "sampler": sampler,
    "packed_linear": packed_linear,
    "engine_generate": engine_generate,
    "engine_decode": engine_decode,
    "engine_disc": engine_disc,
    "engine_memory": engine_memory,
    "engine_phases": engine_phases,
    "eval_mini": eval_mini,
    "train_sft": train_sft,
    "train_rl": train_rl,
}


def cases(
    device: str,
    *,
    quick: bool = False,
    suites: list[str] | None = None,
    names: list[str] | None = None,
) -> list[Case]:
    """The cases of these suites (None: all); of these names alone, in their order (None: all).

    Raises:
        ValueError: a suite or case that does not exist.
    """
    for suite in suites or ():
        if suite not in MODULES:
            raise ValueError(f"--suite {suite}: it must be one of {', '.join(MODULES)}")
    found = [case for suite in suites or MODULES for case in MODULES[suite].cases(device, quick)]
    known = [case.name for case in found]
    for name in names or ():
        if name not in known:
            raise ValueError(f"--case {name}: it must be one of {', '.join(known)}")
    if names is None:
        return found
    return [case for name in dict.fromkeys(names) for case in found if case.name == name]
