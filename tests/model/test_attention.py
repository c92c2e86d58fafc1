"""Packed attention against a plain softmax; states that are not wanted are left out."""

from __future__ import annotations

import pytest
import torch

from umer1.model import PackedAttention, pack
from umer1.model.row_groups import RowGroups

LENGTHS = {
    "one": [1],
    "equal": [7, 7, 7],
    "ragged": [5, 1, 64, 60, 33, 2, 58, 64],
    "sorted": [12, 11, 3],
}


def plain(lengths, query, key, value, causal):
    results = []
    group = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(group, dim=1) for rows in (key, value))
    for q, k, v in zip(*(rows.split(lengths) for rows in (query, key, value)), strict=True):
        scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        results.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    return torch.cat(results)


def make_attention(lengths, dtype=torch.float32, causal=True):
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return PackedAttention(lengths, ends, dtype, causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_packed_attention_values_and_gradients(lengths, causal, dtype):
    torch.manual_seed(0)
    total = sum(lengths)
    heads = {"query": 6, "key": 2, "value": 2}
    rows = [torch.randn(total, n, 16, dtype=torch.float64) for n in heads.values()]
    weights = torch.randn(total, 6, 16, dtype=torch.float64)
    ours = [part.to(dtype).requires_grad_() for part in rows]
    exact = [part.detach().double().requires_grad_() for part in ours]
    attend = make_attention(lengths, dtype, causal)
    assert attend.backend == "sdpa"
    result = attend(0, *ours)
    expected = plain(lengths, *exact, causal)
    (result * weights.to(dtype)).sum().backward()
    (expected * weights).sum().backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}[dtype]
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=tolerance)
    for part, reference, name in zip(ours, exact, heads, strict=True):
        torch.testing.assert_close(
            part.grad.double(), reference.grad, atol=tolerance, rtol=tolerance, msg=name
        )


@pytest.mark.parametrize("shortest", [0.5, 0.85, 1.0])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_row_groups_are_a_permutation_with_padding(lengths, shortest):
    groups = RowGroups(lengths, "cpu", shortest)
    rows = torch.arange(sum(lengths), dtype=torch.float64)[:, None].requires_grad_()
    padded = groups.pad(rows)
    assert len(padded) == sum(count * length for count, length in groups.rectangles)
    assert torch.equal(groups.unpad(padded), rows)
    groups.unpad(padded * 3).sum().backward()
    assert torch.equal(rows.grad, torch.full_like(rows, 3))
    for count, length in groups.rectangles:
        assert count * length <= sum(lengths) / shortest


def test_neighbours_do_not_leak():
    """A sequence of NaN beside and inside the same rectangle changes nothing."""
    lengths = [8, 9, 8]
    torch.manual_seed(0)
    rows = [torch.randn(25, 2, 8) for _ in range(3)]
    clean = make_attention(lengths)(0, *rows)
    for part in rows:
        part[8:17] = float("nan")
    spoiled = make_attention(lengths)(0, *rows)
    assert torch.equal(clean[:8], spoiled[:8]) and torch.equal(clean[17:], spoiled[17:])


def test_without_padding_a_sequence_does_not_depend_on_the_others_at_all():
    """Bit for bit, which padding to a longer neighbour is not."""
    torch.manual_seed(0)
    lengths = [33, 31, 33, 7, 1, 32]
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    rows = [torch.randn(sum(lengths), 2, 8) for _ in range(3)]
    together = PackedAttention(lengths, ends, shortest_in_group=1.0)(0, *rows)
    parts = zip(*(part.split(lengths) for part in (*rows, together)))
    for length, (*own, result) in zip(lengths, parts):
        alone = PackedAttention([length], torch.tensor([0, length], dtype=torch.int32))(0, *own)
        assert torch.equal(alone, result)


@torch.no_grad()
def test_states_that_are_kept_equal_those_of_the_whole(make_model, make_sequence):
    model = make_model()
    packed = pack([make_sequence(3, (1, 4, 6), 9), make_sequence(14, seed=1)])
    whole = model(packed)
    keep = torch.tensor([3, 0, len(whole) - 1, 3])
    attend = PackedAttention(packed.lengths, packed.cu_seqlens)
    kept = model.decoder(model.embed(packed), packed.position_ids, attend, keep)
    torch.testing.assert_close(kept, whole[keep], atol=1e-5, rtol=0)
