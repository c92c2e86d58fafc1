"""generate(): all results of some prompts in one call."""

from __future__ import annotations

from collections.abc import Callable

from umer1.engine.memory import page_bytes
from umer1.engine.native import NativeEngine
from umer1.engine.pages import pages_for
from umer1.engine.protocol import Engine
from umer1.engine.requests import Generated, Prompt, Sampling, SpecialTokens
from umer1.model.qwen2_vl import Qwen2VL


def generate(
    model: Qwen2VL | Engine,
    prompts: list[Prompt],
    sampling: Sampling,
    *,
    gen_id: int = -1,
    eos_id: int = -1,
    think_end: tuple[int, ...] = (),
    samples: int = 1,
    slots: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Continue every prompt `samples` times.

    Args:
        model: a model, for which an engine is made and thrown away; or an engine, which brings its
            own special tokens and slots.
        slots: rows decoded together.
        progress: called with (rollouts finished, tokens written) as they come.

    Returns:
        one `Generated` per prompt, in order.
    """
    if samples < 1:
        raise ValueError(f"samples: got {samples}, wants at least 1")
    if not prompts:
        return []
    if isinstance(model, Qwen2VL):
        special = SpecialTokens(gen_id, eos_id, think_end)
        slots = min(slots, samples * len(prompts))
        needed = _memory(model, prompts, sampling, samples, slots)
        model = NativeEngine(model, special, slots=slots, kv_memory=needed)
    results = [Generated(rollouts=[None] * samples) for _ in prompts]
    for finished in model.submit(prompts, sampling, samples=samples):
        results[finished.prompt].disc = finished.disc
        results[finished.prompt].rollouts[finished.sample] = finished.rollout
        if progress is not None:
            progress(1, len(finished.rollout.tokens))
    return results


def _memory(
    model: Qwen2VL, prompts: list[Prompt], sampling: Sampling, samples: int, slots: int
) -> int:
    """Bytes with which no row waits for pages: the longest prompts at once, and all slots."""
    longest = sorted((pages_for(len(prompt.sequence)) for prompt in prompts), reverse=True)
    pages = sum(longest[:slots]) + slots * pages_for(sampling.max_new_tokens) + 1
    return pages * page_bytes(model.config, model.dtype)
