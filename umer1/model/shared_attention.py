"""Attention of continuations that share their prompt: the prompt goes through the model once.

Tokens stand in the order prompt, its continuations, next prompt, its continuations, ... A prompt attends
causally to itself; a continuation to its whole prompt and causally to itself. No mask is made and no product is
larger than the attention that is wanted.

On the CPU a continuation's two parts are two softmaxes put together by their log-sum-exps:
    out = sum_i exp(lse_i - lse) out_i,    lse = log sum_i exp(lse_i)
With that out and lse the backward of each part alone gives its share of the gradients (P = exp(s - lse) and
D = <dout, out> are those of the whole row), as in ring attention (arXiv 2310.01889). On CUDA in 16 bits each
continuation gets the keys of its prompt in front of its own, and flash attention aligns the causal mask at the end.

Shapes: T tokens, Hq query heads, Hkv key-value heads, D head size, K gathered keys.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from umer1.model.attention import packed_backend
from umer1.model.row_copies import RowCopies
from umer1.model.row_groups import RowGroups

log = logging.getLogger("umer1")
_SHORTEST_IN_GROUP = 0.9  # as in attention.py: shorter sequences are not padded to the longest


class SharedPrefixAttention:
    """The plan for one pack; calls are those of a decoder layer: query [T, Hq, D], key and value [T, Hkv, D].

    Args:
        prompts: tokens of each prompt, at least 1.
        continuations: tokens of each prompt's continuations, each at least 1.
    """

    def __init__(
        self,
        prompts: list[int],
        continuations: list[list[int]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.backend = shared_backend(device, dtype)
        if self.backend is None:
            raise ValueError(f"shared prompts: no attention for them on {device} in {dtype}")
        self.lengths = [
            length for prompt, own in zip(prompts, continuations) for length in (prompt, *own)
        ]
        if min(self.lengths) < 1:
            raise ValueError(f"shared prompts: wants lengths of at least 1, got {self.lengths}")
        # (first token, first token after the prompt, first token after its continuations)
        self.groups: list[tuple[int, int, int]] = []
        place = 0
        for prompt, own in zip(prompts, continuations):
            self.groups.append((place, place + prompt, place + prompt + sum(own)))
            place = self.groups[-1][-1]
        if self.backend == "two softmaxes":
            self.own = RowGroups(self.lengths, device, _SHORTEST_IN_GROUP)
        else:
            self._gather_keys(prompts, continuations, device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.backend != "two softmaxes":
            return self._with_gathered_keys(query, key, value)
        dtype = query.dtype
        if dtype != torch.float64:  # the CPU's 16-bit kernel is slower backward, and rounds more
            query, key, value = query.float(), key.float(), value.float()
        return _TwoSoftmaxes.apply(query, key, value, self).to(dtype)

    def _gather_keys(self, prompts, continuations, device) -> None:
        rows, key_lengths = [], []
        for (start, middle, _), prompt, own in zip(self.groups, prompts, continuations):
            rows.append(torch.arange(start, middle))
            key_lengths.append(prompt)
            for length in own:
                rows += [torch.arange(start, start + prompt), torch.arange(middle, middle + length)]
                key_lengths.append(prompt + length)
                middle += length
        self.copies = RowCopies(torch.cat(rows), sum(self.lengths), device)
        self.key_lengths = key_lengths
        ends = (torch.tensor([0, *lengths]).cumsum(0) for lengths in (self.lengths, key_lengths))
        self.query_ends, self.key_ends = (each.to(device, torch.int32) for each in ends)

    def _with_gathered_keys(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = self.copies(key), self.copies(value)
        sizes = (self.query_ends, self.key_ends, max(self.lengths), max(self.key_lengths))
        return _VARLEN[self.backend](query, key, value, *sizes)


def shared_backend(
    device: torch.device, dtype: torch.dtype, head_size: int | None = None
) -> str | None:
    """What SharedPrefixAttention runs on: "two softmaxes" (CPU), "varlen_attn" or "flash_attn"; None: nothing."""
    if device.type == "cpu":
        return "two softmaxes" if _cpu_operators() else None
    backend = packed_backend(device, dtype, head_size)
    return backend if backend in _VARLEN else None


def _varlen(query, key, value, query_ends, key_ends, longest_query, longest_key) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    group = query.shape[1] // key.shape[1]
    # torch 2.11 has no grouped-query flag here
    key = key.repeat_interleave(group, dim=1) if group > 1 else key
    value = value.repeat_interleave(group, dim=1) if group > 1 else value
    return varlen_attn(
        query, key, value, query_ends, key_ends, longest_query, longest_key, window_size=(-1, 0)
    )  # fmt: skip


def _flash(query, key, value, query_ends, key_ends, longest_query, longest_key) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        query, key, value, query_ends, key_ends, longest_query, longest_key, causal=True
    )  # fmt: skip


_VARLEN = {"varlen_attn": _varlen, "flash_attn": _flash}


class _TwoSoftmaxes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, plan: SharedPrefixAttention):
        out, lse = _own_part(plan.own, query, key, value)
        for start, middle, end in plan.groups:
            if middle == end:
                continue
            rows = slice(middle, end)
            parts = (_heads(query[rows]), _heads(key[start:middle]), _heads(value[start:middle]))
            second, second_lse = _forward(*parts, False)
            second, second_lse = second[0].transpose(0, 1), second_lse[0].T
            total = torch.logaddexp(lse[rows], second_lse)
            out[rows] *= (lse[rows] - total).exp_()[..., None]
            out[rows] += second * (second_lse - total).exp_()[..., None]
            lse[rows] = total
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        query, key, value, out, lse = ctx.saved_tensors
        plan = ctx.plan
        grad = grad.contiguous()
        grads = _own_part_backward(plan.own, grad, query, key, value, out, lse)
        for start, middle, end in plan.groups:
            if middle == end:
                continue
            rows, keys = slice(middle, end), slice(start, middle)
            found = _backward(
                *(_heads(each) for each in (grad[rows], query[rows], key[keys], value[keys], out[rows])),
                lse[rows].T[None].contiguous(),
                False,
            )  # fmt: skip
            for total, place, part in zip(grads, (rows, keys, keys), found):
                total[place] += part[0].transpose(0, 1)
        return *grads, None


def _own_part(groups: RowGroups, query: Tensor, key: Tensor, value: Tensor):
    """Every sequence causally within itself: out [T, Hq, D], lse [T, Hq]."""
    outs, lses = [], []
    for parts in _rectangles(groups, query, key, value):
        out, lse = _forward(*parts, True)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        lses.append(lse.transpose(1, 2).flatten(0, 1))
    back = groups.packed_to_padded
    return torch.cat(outs).index_select(0, back), torch.cat(lses).index_select(0, back)


def _own_part_backward(groups: RowGroups, grad, query, key, value, out, lse) -> list[Tensor]:
    # padding repeats a row, and must not bring its gradient twice
    padded = grad.new_zeros(groups.padded_total, *grad.shape[1:])
    padded.index_copy_(0, groups.packed_to_padded, grad)
    sizes = [count * length for count, length in groups.rectangles]
    found: tuple[list, list, list] = ([], [], [])
    rectangles = _rectangles(groups, query, key, value, out, lse[..., None])
    for part, size, (*parts, part_lse) in zip(padded.split(sizes), groups.rectangles, rectangles):
        shaped = part.unflatten(0, size).transpose(1, 2)
        grads = _backward(shaped, *parts, part_lse[..., 0].contiguous(), True)
        for rows, each in zip(found, grads):
            rows.append(each.transpose(1, 2).flatten(0, 1))
    back = groups.packed_to_padded
    return [torch.cat(rows).index_select(0, back) for rows in found]


def _rectangles(groups: RowGroups, *rows: Tensor):
    """Per rectangle of b sequences of S tokens: each tensor [T, heads, D] as [b, heads, S, D]."""
    sizes = [count * length for count, length in groups.rectangles]
    split = (groups.pad(each).split(sizes) for each in rows)
    for (count, length), *parts in zip(groups.rectangles, *split):
        yield [part.unflatten(0, (count, length)).transpose(1, 2) for part in parts]


def _heads(rows: Tensor) -> Tensor:
    """[R, heads, D] -> [1, heads, R, D]."""
    return rows.transpose(0, 1)[None]


def _forward(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal
    )


def _backward(grad, query, key, value, out, lse, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, out, lse, 0.0, causal
    )


@cache
def _cpu_operators() -> bool:
    """The operators are private to torch and may change: tried before they are trusted."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, rows, 8, generator=generator, dtype=torch.float64)
        for heads, rows in ((4, 3), (2, 5), (2, 5))
    )
    try:
        out, lse = _forward(query, key, value, False)
        grads = _backward(out, query, key, value, out, lse, False)
    except (AttributeError, RuntimeError, TypeError) as error:
        log.warning("shared prompts: torch %s: %s", torch.__version__, str(error).splitlines()[0])
        return False
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    wanted = scores.softmax(-1) @ value.repeat_interleave(2, 1)
    right = torch.allclose(out, wanted) and torch.allclose(lse, scores.logsumexp(-1))
    return right and [each.shape for each in grads] == [query.shape, key.shape, value.shape]
