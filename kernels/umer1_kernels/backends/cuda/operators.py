"""The operators that only CUDA implements, and the shapes they return for tensors without data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import register_fake

from umer1_kernels.extension import extension_status

if not extension_status().loaded:
    raise ImportError(extension_status().detail)

operators = torch.ops.umer1_kernels


@register_fake("umer1_kernels::group_reward_from_vectors")
def _(query: Tensor, target, query_valid, target_valid, threshold, first_pair, pairs: int, kind):
    shape = (2, pairs, query.shape[1])
    return tuple(query.new_empty(shape, dtype=torch.float32) for _ in range(4))


@register_fake("umer1_kernels::generation_step_")
def _(vectors, hit, hidden, input_ids, slot_ids, generated, token_id, normalize):
    return None
