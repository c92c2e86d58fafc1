"""Packed attention against a plain softmax, and prefill + decode against the whole sequence."""

from __future__ import annotations

import pytest
import torch

from umer1.model import DecodeAttention, KVCache, PackedAttention, PrefillAttention, pack
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


SEQUENCES = [(3, (1, 4, 6), 9), (14,), (2, (6, 2, 2), 5), (4, (1, 2, 2), 2, (3, 4, 4), 4)]
TAIL = 3


@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [4, 0, 5, 2]], ids=["in order", "scattered"])
@torch.no_grad()
def test_prefill_and_decode_equal_the_whole(slots, make_model, make_sequence, shorter):
    model = make_model()
    sequences = [make_sequence(*parts, seed=n) for n, parts in enumerate(SEQUENCES)]
    whole = model(packed := pack(sequences)).split(packed.lengths)
    prompts = pack([shorter(sequence, TAIL) for sequence in sequences])
    cache = KVCache(model.config, 6, 40)
    # Memory that was never written, and slots that another sequence left behind.
    cache.key.fill_(float("nan"))
    cache.value.fill_(float("nan"))
    hidden = model(prompts, PrefillAttention(prompts.lengths, prompts.cu_seqlens, cache, slots))
    expected = torch.cat([part[:-TAIL] for part in whole])
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)
    lengths, positions = torch.tensor(prompts.lengths), prompts.next_position
    for step in range(-TAIL, 0):
        ids = torch.stack([sequence.input_ids[step] for sequence in sequences])
        hidden = model.decode(ids, positions, DecodeAttention(cache, slots, lengths))
        expected = torch.stack([part[step] for part in whole])
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)
        lengths, positions = lengths + 1, positions + 1


@torch.no_grad()
def test_forked_slots_continue_alike(make_model, make_sequence):
    """Beside a longer row, so that their padding takes part; the memory was full of NaN."""
    model = make_model()
    prompt, longer = make_sequence(3, (1, 4, 4), 5), make_sequence(19, seed=1)
    packed = pack([prompt, longer])
    cache = KVCache(model.config, 6, 24)
    cache.key.fill_(float("nan"))
    cache.value.fill_(float("nan"))
    model(packed, PrefillAttention(packed.lengths, packed.cu_seqlens, cache, [1, 4]))
    cache.copy(1, [0, 3], length=len(prompt))
    cache.copy(4, [5], length=len(longer))
    cache.copy(3, [2], length=len(prompt))
    ids = torch.tensor([11, 12, 13, 14])
    lengths = torch.tensor([len(prompt)] * 3 + [len(longer)])
    positions = packed.next_position[[0, 0, 0, 1]]
    hidden = model.decode(ids, positions, DecodeAttention(cache, [0, 2, 3, 5], lengths))
    for row, token in enumerate(ids):
        sequence = (longer if row == 3 else prompt).extend([token])
        torch.testing.assert_close(hidden[row], model(pack([sequence]))[-1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_decoding_is_independent_of_batch_mates(make_model):
    model = make_model()
    cache = KVCache(model.config, 3, 12)
    for store in (cache.key, cache.value):
        store.normal_(generator=torch.Generator().manual_seed(1))
    before = [store.clone() for store in (cache.key, cache.value)]
    ids, lengths = torch.tensor([5, 6, 7]), torch.tensor([2, 11, 7])
    together = model.decode(ids, lengths, DecodeAttention(cache, [0, 1, 2], lengths))
    cache.key.copy_(before[0]), cache.value.copy_(before[1])
    for row in range(3):
        part = slice(row, row + 1)
        alone = model.decode(ids[part], lengths[part], DecodeAttention(cache, [row], lengths[part]))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_cache_errors_name_the_size(make_config):
    cache = KVCache(make_config(), 2, 8)
    ends = torch.tensor([0, 9], dtype=torch.int32)
    with pytest.raises(ValueError, match="a prompt of 9 tokens does not fit a cache of 8"):
        PrefillAttention([9], ends, cache, [0])
    with pytest.raises(ValueError, match=r"slots has 2 entries, want one per sequence \(1\)"):
        PrefillAttention([3], torch.tensor([0, 3], dtype=torch.int32), cache, [0, 1])
    with pytest.raises(ValueError, match="decoding token 9 does not fit a cache of 8 tokens"):
        DecodeAttention(cache, [0], torch.tensor([8]))
