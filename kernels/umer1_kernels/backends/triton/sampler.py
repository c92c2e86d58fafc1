"""sample_tokens as one operator: Triton kernels that are imported when it first runs."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks


@torch.library.custom_op("umer1_kernels::triton_sample_tokens", mutates_args=())
def sample(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    forced: Tensor,
    truncated: bool,
) -> tuple[Tensor, Tensor]:
    """token [B] and log-probability [B]; `truncated` False: no row has top-p or top-k."""
    from umer1_kernels.backends.triton.sampler_kernels import sample

    return sample(logits, seed, step, temperature, top_p, top_k, forced, truncated)


@sample.register_fake
def _(logits, seed, *settings):
    dtype = checks.compute_dtype(logits)
    return torch.empty_like(seed), logits.new_empty(logits.shape[0], dtype=dtype)
