"""The compiled operators, and the shapes they return for tensors without data (compile)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import register_fake

from umer1_kernels.extension import extension_status

if not extension_status().loaded:
    raise ImportError(extension_status().detail)

operators = torch.ops.umer1_kernels


@register_fake("umer1_kernels::nce_row_pool")
def _(logits: Tensor, scale, excluded, row_id, candidate_id):
    return logits.new_empty(logits.shape[0]), logits.new_empty(logits.shape[0])


@register_fake("umer1_kernels::nce_row_gradient_")
def _(logits, scale, excluded, row_id, candidate_id, best, coefficient):
    return None


@register_fake("umer1_kernels::group_reward_scores")
def _(similarity: Tensor, row_valid, candidate_valid, threshold, group_size, first_group):
    return tuple(similarity.new_empty(similarity.shape[0]) for _ in range(3))


@register_fake("umer1_kernels::gather_hidden")
def _(hidden: Tensor, input_ids: Tensor, begin: Tensor, end, token_id, last, normalize):
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    count = begin.shape[0]
    vectors = hidden.new_empty((count, hidden.shape[1]), dtype=dtype)
    return vectors, input_ids.new_empty(count), hidden.new_empty(count, dtype=dtype)


@register_fake("umer1_kernels::gather_hidden_backward_")
def _(hidden_grad, grad, vectors, index, norm, normalize):
    return None
