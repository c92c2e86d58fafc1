"""sample_tokens: the next token of each row and its log-probability, reproducible row by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.backends import choose
from umer1_kernels.reference.sampler import sample_tokens as reference_sample_tokens


class Sampled(NamedTuple):
    """token int64 [B]; logprob float32 (float64 for float64 logits) [B]."""

    token: Tensor
    logprob: Tensor


@torch.no_grad()
def sample_tokens(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    *,
    temperature: float | Tensor = 0.0,
    top_p: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    forced: Tensor | None = None,
    backend: str = "auto",
) -> Sampled:
    """Greedy, or sampled at a temperature from all tokens, the top-k, the top-p, or the top-p of the top-k.

    A row draws one uniform number u from its own seed and step (the splitmix64 finaliser of both),
    and takes the first token, in the order of tokens, at which the cumulative probability of the
    kept tokens passes u: its result does not depend on the other rows.

    Args:
        logits: [B, V], any float dtype; taken to float32 (float64 stays). Rows may be strided.
        seed: int64 [B], any 64 bits. step: int64 [B], tokens the row has written.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: keep the smallest set of most likely tokens whose probability reaches it; 1: all.
        top_k: keep the k most likely tokens; 0: all. Together with top_p it comes first.
        forced: int64 [B], a token that is taken whatever the rest says; -1: none.
        backend: "auto", "reference", "cpu" or "triton" (whose kernels never ran on a GPU yet).
        Settings are one number for all rows, or a tensor [B].

    Returns:
        Sampled: token, and its log-probability under softmax(logits / temperature) over all tokens
        (temperature 1 where it is 0): what a trainer computes for the same token.

    Of equally likely tokens the lower one counts as the likelier. A token of probability 0 (in
    float32) is never sampled. Backends take the same token, except where u lies within the rounding
    of float32 probabilities from the edge between two tokens. Rows with NaN or without any finite
    logit get some token. On the device no value is looked at by the host.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it. Tensors of settings are
        looked at on the CPU only.
    """
    checks.check_floating("logits", logits, 2)
    rows, size = logits.shape
    if size < 1:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; it must have a token")
    for name, value in (("seed", seed), ("step", step)):
        checks.check_integer(name, value, (rows,))
        checks.check_same(name, value, "logits", logits, dtype=False)
    # known without looking at a tensor
    truncated = not (_is_number(top_p) and top_p == 1 and _is_number(top_k) and top_k == 0)
    settings = (
        _setting("temperature", temperature, logits, torch.float32, "0 (greedy) or more"),
        _setting("top_p", top_p, logits, torch.float32, "in (0, 1]"),
        _setting("top_k", top_k, logits, torch.int64, "0 (all) or more"),
        _setting("forced", -1 if forced is None else forced, logits, torch.int64, ""),
    )
    chosen = choose("sample_tokens", backend, logits).backend
    seed, step = seed.long(), step.long()
    if chosen == "reference":
        return Sampled(*reference_sample_tokens(logits, seed, step, *settings, truncated))
    if chosen == "cpu":
        from umer1_kernels.backends.cpu.operators import operators

        return Sampled(*operators.sample_tokens(logits, seed, step, *settings))
    from umer1_kernels.backends.triton.sampler import sample

    return Sampled(*sample(logits, seed, step, *settings, truncated))


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _setting(name: str, value, logits: Tensor, dtype: torch.dtype, wanted: str) -> Tensor:
    """[B] of this dtype, from a number that is checked here or a tensor."""
    rows = logits.shape[0]
    if isinstance(value, Tensor):
        checks.check_shape(name, value, (rows,))
        checks.check_same(name, value, "logits", logits, dtype=False)
        if value.is_floating_point() != dtype.is_floating_point or value.dtype == torch.bool:
            raise TypeError(f"{name} has dtype {value.dtype}; wanted is {dtype}")
        return value.to(dtype)
    if not _is_number(value) or (isinstance(value, float) and not dtype.is_floating_point):
        raise TypeError(f"{name} is {value!r}; it must be a number or a tensor [B]")
    fits = {"temperature": value >= 0, "top_p": 0 < value <= 1, "top_k": value >= 0}
    if not fits.get(name, True):
        raise ValueError(f"{name} is {value}; it must be {wanted}")
    return torch.full((rows,), value, dtype=dtype, device=logits.device)
