"""The compiled operators, and the shapes they return for tensors without data (compile)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import register_fake

from umer1_kernels.extension import extension_status

if not extension_status().loaded:
    raise ImportError(extension_status().detail)

operators = torch.ops.umer1_kernels
SLAB = 512  # candidates that share one offset in what bf16_keep keeps


@register_fake("umer1_kernels::row_pools")
def _(logits: Tensor, scale, excluded, row_id, candidate_id, moment: bool):
    count = logits.shape[0]
    sizes = (count, count, count if moment else 0)
    return tuple(logits.new_empty(size) for size in sizes)


@register_fake("umer1_kernels::column_pools")
def _(logits: Tensor, scale, excluded, row_id, candidate_id):
    return logits.new_empty(logits.shape[1]), logits.new_empty(logits.shape[1])


@register_fake("umer1_kernels::softmax_gradient_")
def _(logits, scale, excluded, row_id, candidate_id, best, row, label, slope, column_best, column):
    return None


@register_fake("umer1_kernels::bf16_pools")
def _(rows: Tensor, candidates: Tensor, scale, excluded, row_id, candidate_id, columns, moment):
    count, others = rows.shape[0], candidates.shape[0] if columns else 0
    sizes = (count, count, count if moment else 0, others, others)
    return tuple(rows.new_empty(size, dtype=torch.float32) for size in sizes)


@register_fake("umer1_kernels::bf16_keep")
def _(rows: Tensor, candidates: Tensor, scale, excluded, row_id, candidate_id, columns, moment, e):
    count, others = rows.shape[0], candidates.shape[0] if columns else 0
    sizes = (count, count, count if moment else 0, others, others)
    slabs = (count, (candidates.shape[0] + SLAB - 1) // SLAB)
    return tuple(rows.new_empty(size, dtype=torch.float32) for size in (*sizes, slabs))


@register_fake("umer1_kernels::bf16_kept_gradient_")
def _(exponentials, scale, excluded, slab_best, best, row, label, column_best, column):
    return None


@register_fake("umer1_kernels::bf16_gradient_")
def _(rows, candidates, scale, excluded, row_id, candidate_id, best, row, label, *rest):
    return None


@register_fake("umer1_kernels::group_reward")
def _(of_query: Tensor, of_target, q, t, all_q, all_t, threshold, group_size, first_group, kind):
    shape = (2, of_query.shape[0] // group_size, group_size)
    return tuple(of_query.new_empty(shape) for _ in range(4))


@register_fake("umer1_kernels::gather_hidden")
def _(hidden: Tensor, input_ids: Tensor, begin: Tensor, end, token_id, last, normalize):
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    count = begin.shape[0]
    vectors = hidden.new_empty((count, hidden.shape[1]), dtype=dtype)
    return vectors, input_ids.new_empty(count), hidden.new_empty(count, dtype=dtype)


@register_fake("umer1_kernels::gather_hidden_backward_")
def _(hidden_grad, grad, vectors, index, norm, normalize):
    return None


@register_fake("umer1_kernels::decode_attention")
def _(query: Tensor, *rest):
    return query.new_empty(query.shape)


@register_fake("umer1_kernels::append_kv_")
def _(key, value, key_pages, value_pages, table, position, table_row):
    return None


@register_fake("umer1_kernels::sample_tokens")
def _(logits: Tensor, seed: Tensor, *settings):
    rows = logits.shape[0]
    return logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float32)


@register_fake("umer1_kernels::rms_norm")
def _(rows: Tensor, weight, eps: float):
    return rows.new_empty(rows.shape)


@register_fake("umer1_kernels::swiglu")
def _(gate_up: Tensor):
    return gate_up.new_empty((gate_up.shape[0], gate_up.shape[1] // 2))


@register_fake("umer1_kernels::quick_gelu")
def _(numbers: Tensor):
    return numbers.new_empty(numbers.shape)


@register_fake("umer1_kernels::rotate_heads_")
def _(fused, rotated, rotation):
    return None


@register_fake("umer1_kernels::packed_attention")
def _(query: Tensor, key, value, cu_seqlens, causal, scale):
    return query.new_empty(query.shape)


@register_fake("umer1_kernels::packed_linear")
def _(rows: Tensor, packed, bias, columns, wide):
    dtype = torch.float32 if wide else torch.bfloat16
    return rows.new_empty(rows.shape[0], columns, dtype=dtype)
