"""The hidden state at a token of each sequence, in plain PyTorch.

Legend: R rows of all sequences back to back, B sequences, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.segments import GatheredHidden, segments

EPSILON = 1e-12  # smallest norm divided by


def gather_hidden(
    hidden: Tensor,
    input_ids: Tensor,
    token_id: int,
    *,
    lengths=None,
    cu_seqlens=None,
    start=None,
    occurrence: str = "last",
    normalize: bool = True,
) -> GatheredHidden:
    """See umer1_kernels.gather_hidden."""
    rows, ids, begin, end, origin = segments(hidden, input_ids, lengths, cu_seqlens, start)
    position = torch.arange(ids.shape[0], device=ids.device)
    inside = (position >= begin[:, None]) & (position < end[:, None]) & (ids == token_id)  # [B, R]
    if inside.numel() == 0:  # no sequences, or no tokens: there is no largest position
        index = begin.new_full(begin.shape, -1)
    elif occurrence == "last":
        index = torch.where(inside, position, -1).amax(1)
    else:
        first = torch.where(inside, position, ids.shape[0]).amin(1)
        index = torch.where(first < ids.shape[0], first, -1)
    found = index >= 0
    vectors = rows.index_select(0, index.clamp_min(0)).to(checks.compute_dtype(hidden))
    vectors = torch.where(found[:, None], vectors, 0.0)
    if normalize:
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(EPSILON)
    return GatheredHidden(vectors, torch.where(found, index - origin, -1))
