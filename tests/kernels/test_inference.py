"""The steps of a forward without gradients: float64 truth, odd sizes, strides, rows on their own."""

import pytest
import torch
import torch.nn.functional as F

from umer1_kernels import inference
from umer1_kernels.extension import extension_status

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# one rounding of the result, and of what stands between
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float64: 1e-12}
WIDTHS = (1, 15, 16, 17, 63, 128, 199, 760)
needs_attention = pytest.mark.skipif(
    not inference.BF16_COMPILED, reason="no compiled extension, or no AVX512-BF16"
)


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch):
    if request.param == "compiled" and not extension_status().loaded:
        pytest.skip(extension_status().detail)
    if request.param == "torch":
        monkeypatch.setattr(inference, "COMPILED", False)
    return request.param


def _close(found, truth, dtype):
    assert found.dtype == dtype
    scale = truth.abs().max().clamp_min(1e-3)
    torch.testing.assert_close(found.double() / scale, truth / scale, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@torch.no_grad()
def test_elementwise_steps(path, dtype, width, poisoned_memory):
    rows = (torch.randn(7, 2 * width) * 3).to(dtype)
    weight = torch.randn(width).to(dtype)
    wide = rows.double()
    first = rows[:, :width]  # strided
    truth = wide[:, :width]
    truth = truth / (truth.square().mean(1, keepdim=True) + 1e-6).sqrt() * weight.double()
    _close(inference.rms_norm(first, weight, 1e-6), truth, dtype)
    gate, up = wide.chunk(2, dim=1)
    _close(inference.swiglu(rows), F.silu(gate) * up, dtype)
    _close(
        inference.quick_gelu(first), wide[:, :width] * torch.sigmoid(1.702 * wide[:, :width]), dtype
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 10, 16, 80, 128])
@torch.no_grad()
def test_rotation_is_a_complex_product_in_place(path, dtype, size):
    fused = torch.randn(5, 7, size).to(dtype)
    before = fused.clone()
    angles = torch.randn(5, 1, size // 2)
    rotation = torch.polar(torch.ones_like(angles), angles)
    result = inference.rotate_heads_(fused, 4, rotation)
    assert result is fused and torch.equal(fused[:, 4:], before[:, 4:])
    pairs = torch.view_as_complex(before[:, :4].double().unflatten(-1, (-1, 2)))
    truth = torch.view_as_real(pairs * rotation.to(torch.complex128)).flatten(-2)
    _close(fused[:, :4], truth, dtype)


@torch.no_grad()
def test_extremes(path):
    rows = torch.tensor([[200.0, -200.0, 0.0, 3e38, 1.0, -1.0, 1.0, 1e-38]])
    gate, up = rows.chunk(2, dim=1)
    torch.testing.assert_close(inference.swiglu(rows), F.silu(gate) * up)
    assert inference.quick_gelu(rows).isfinite().all()
    bad = torch.tensor([[float("nan"), 1.0, float("inf"), 1.0]])
    for dtype in (torch.float32, torch.bfloat16):
        assert inference.swiglu(bad.to(dtype)).isnan()[0, 0]
        assert inference.rms_norm(bad.to(dtype), torch.ones(4, dtype=dtype), 1e-6).isnan().any()


@pytest.mark.skipif(not inference.COMPILED, reason="no compiled extension")
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@torch.no_grad()
def test_a_row_does_not_depend_on_the_others(dtype):
    """In torch it does: aten computes the numbers that fill no vector by another silu."""
    rows, weight = torch.randn(300, 2 * 97).to(dtype), torch.randn(97).to(dtype)
    for call in (
        lambda part: inference.swiglu(part),
        lambda part: inference.quick_gelu(part),
        lambda part: inference.rms_norm(part[:, :97], weight, 1e-6),
    ):
        together = call(rows)
        for start, count in ((0, 1), (299, 1), (5, 64), (100, 200)):
            assert torch.equal(call(rows[start : start + count]), together[start : start + count])


def test_where_a_gradient_is_wanted_there_is_one():
    rows = torch.randn(4, 16, requires_grad=True)
    inference.swiglu(rows).sum().backward()
    assert rows.grad.abs().sum() > 0
    query = torch.randn(5, 2, 8, dtype=torch.bfloat16, requires_grad=True)
    ends = torch.tensor([0, 5], dtype=torch.int32)
    inference.packed_attention(query, query, query, ends).sum().backward()
    assert query.grad.abs().sum() > 0


LENGTHS = ([1], [48], [49, 1, 47], [255, 256, 257], [513], [3, 1030, 90])


def _truth(query, key, value, lengths, causal):
    parts = []
    for own in zip(*(rows.double().split(lengths) for rows in (query, key, value)), strict=True):
        shaped = [rows.transpose(0, 1)[None] for rows in own]
        grouped = query.shape[1] != key.shape[1]
        part = F.scaled_dot_product_attention(*shaped, is_causal=causal, enable_gqa=grouped)
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


def _inputs(lengths, heads, kv_heads, size, dtype=torch.bfloat16, scale=1.0):
    fused = torch.randn(sum(lengths), heads + 2 * kv_heads, size).mul_(scale).to(dtype)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    return *fused.split([heads, kv_heads, kv_heads], dim=1), ends


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(
    "heads, kv_heads, size", [(4, 4, 80), (12, 2, 128), (6, 3, 17), (5, 1, 64)]
)
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_attention_of_packed_sequences(lengths, heads, kv_heads, size, causal, poisoned_memory):
    query, key, value, ends = _inputs(lengths, heads, kv_heads, size)
    result = inference.packed_attention(query, key, value, ends, causal=causal)
    truth = _truth(query, key, value, lengths, causal)
    assert result.dtype == torch.bfloat16 and result.shape == truth.shape
    assert (result.double() - truth).norm() <= 3e-3 * truth.norm()


@needs_attention
@torch.no_grad()
def test_attention_where_one_key_has_all_the_weight():
    """Scores far apart, the largest in the last chunk: what was summed before is scaled away."""
    query, key, value, ends = _inputs([700], 2, 2, 64, scale=8.0)
    key[-1] = query.mean(0) * 4
    result = inference.packed_attention(query, key, value, ends, causal=False)
    truth = _truth(query, key, value, [700], False)
    assert result.isfinite().all() and (result.double() - truth).norm() <= 3e-3 * truth.norm()


@needs_attention
@pytest.mark.parametrize("threads", [1, 3])
@torch.no_grad()
def test_attention_of_a_sequence_has_the_same_bits_in_every_batch(threads):
    lengths = [100, 700, 1, 300]
    query, key, value, ends = _inputs(lengths, 6, 2, 32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = inference.packed_attention(query, key, value, ends).split(lengths)
    finally:
        torch.set_num_threads(before)
    for number, own in enumerate(zip(*(rows.split(lengths) for rows in (query, key, value)))):
        alone = torch.tensor([0, lengths[number]], dtype=torch.int32)
        assert torch.equal(inference.packed_attention(*own, alone), together[number])


@needs_attention
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda q, k, v, e: (q, k, v, e.long()), "int32 is wanted"),
        (lambda q, k, v, e: (q, k, v, e[:-1]), "cu_seqlens ends with 3, not 8"),
        (lambda q, k, v, e: (q, k, v, torch.cat([e, e[-1:]])), "sequence 2 has 0 tokens"),
        (lambda q, k, v, e: (q[:, :3], k, v, e), "query has 3 heads, key 2"),
        (lambda q, k, v, e: (q, k[:, :, :4], v, e), "key has size 4 in dimension 2"),
    ],
)
def test_wrong_attention_arguments_are_named(change, message):
    with pytest.raises(RuntimeError, match=message), torch.no_grad():
        inference.packed_attention(*change(*_inputs([3, 5], 4, 2, 8)))


@pytest.mark.skipif(not extension_status().loaded, reason="no compiled extension")
@torch.no_grad()
def test_operators_are_well_formed():
    rows, weight = torch.randn(3, 8), torch.randn(8)
    rotation = torch.polar(torch.ones(3, 1, 2), torch.randn(3, 1, 2))
    operators = torch.ops.umer1_kernels
    for operator, arguments in (
        (operators.rms_norm, (rows, weight, 1e-6)),
        (operators.swiglu, (rows,)),
        (operators.quick_gelu, (rows,)),
        (operators.rotate_heads_, (rows.view(3, 2, 4), 1, rotation)),
    ):
        torch.library.opcheck(operator.default, arguments)
    if inference.BF16_COMPILED:
        torch.library.opcheck(
            operators.packed_attention.default, (*_inputs([3, 5], 4, 2, 8), True, 0.3)
        )
