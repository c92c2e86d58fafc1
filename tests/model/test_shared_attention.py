"""Continuations that share a prompt attend exactly as if each had a prompt of its own."""

import pytest
import torch

from umer1.model import shared_attention
from umer1.model.row_copies import RowCopies
from umer1.model.shared_attention import SharedPrefixAttention

CPU = torch.device("cpu")
PROMPTS, CONTINUATIONS = [5, 9, 1, 7], [[3, 1, 4], [6, 6], [2], []]


def _inputs(dtype=torch.float64):
    total = sum(PROMPTS) + sum(map(sum, CONTINUATIONS))
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(total, heads, 8, generator=generator, dtype=dtype).requires_grad_()
        for heads in (4, 2, 2)
    ]


def _plain(query, key, value):
    """Row by row: the keys a token may see, a softmax, a sum."""
    results, place = [], 0
    for prompt, own in zip(PROMPTS, CONTINUATIONS):
        keys = [range(place, place + row + 1) for row in range(prompt)]
        start, place = place, place + prompt
        for length in own:
            keys += [
                [*range(start, start + prompt), *range(place, place + row + 1)]
                for row in range(length)
            ]
            place += length
        for offset, seen in enumerate(keys):
            k, v = (each[list(seen)].repeat_interleave(2, 1) for each in (key, value))
            weights = (torch.einsum("hd,khd->hk", query[start + offset], k) / 8**0.5).softmax(1)
            results.append(torch.einsum("hk,khd->hd", weights, v))
    return torch.stack(results)


def _bottom_right(query, key, value, query_ends, key_ends, longest_query, longest_key):
    """What flash attention does with more keys than queries: the last query sees the last key."""
    results = []
    for q0, q1, k0, k1 in zip(query_ends, query_ends[1:], key_ends, key_ends[1:]):
        k, v = (each[k0:k1].repeat_interleave(2, 1) for each in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[q0:q1], k) / 8**0.5
        allowed = torch.ones(q1 - q0, k1 - k0).tril(int((k1 - k0) - (q1 - q0))).bool()
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        results.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(results)


@pytest.mark.parametrize("backend", ["two softmaxes", "varlen_attn"])
def test_output_and_gradients_equal_attention_written_out(backend, monkeypatch):
    monkeypatch.setattr(shared_attention, "shared_backend", lambda device, dtype: backend)
    monkeypatch.setitem(shared_attention._VARLEN, "varlen_attn", _bottom_right)
    inputs = _inputs()
    attend = SharedPrefixAttention(PROMPTS, CONTINUATIONS, CPU, torch.float64)
    got = attend(0, *inputs)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype)
    got_grads = torch.autograd.grad(got, inputs, grad)
    wanted = _plain(*inputs)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-10)
    for mine, theirs in zip(got_grads, torch.autograd.grad(wanted, inputs, grad)):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


def test_bfloat16_is_computed_in_float32():
    inputs = _inputs(torch.bfloat16)
    attend = SharedPrefixAttention(PROMPTS, CONTINUATIONS, CPU, torch.bfloat16)
    wanted = _plain(*(each.double() for each in inputs))
    assert attend(0, *inputs).dtype == torch.bfloat16
    torch.testing.assert_close(attend(0, *inputs).double(), wanted, atol=0.01, rtol=0.01)


def test_no_attention_in_float32_on_a_gpu_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="cuda in torch.float32"):
        SharedPrefixAttention([1], [[1]], torch.device("cuda"), torch.float32)


def test_gradient_of_copied_rows_is_their_sum():
    index = torch.tensor([0, 1, 0, 4, 0, 4, 2])
    rows = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    copies = RowCopies(index, 6, "cpu")
    assert torch.equal(copies(rows), rows[index])
    assert torch.autograd.gradcheck(copies, rows)
