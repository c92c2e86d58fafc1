"""packed_linear: a Linear layer's product with a weight in panels, against float64."""

import pytest
import torch
from torch import Tensor

from umer1_kernels import inference
from umer1_kernels.packed_linear import pack_linear, packed_linear, unpack_linear

needs_bf16 = pytest.mark.skipif(
    not inference.BF16_COMPILED, reason="no compiled extension, or no AVX512-BF16"
)
# outputs and inputs: whole panels, parts of one, odd, beyond a block of inputs
SHAPES = [(64, 32), (1, 1), (63, 2), (65, 7), (130, 2049), (200, 4100), (128, 2048)]


def _layer(columns: int, dimension: int, rows: int = 7, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (rows, dimension), (columns, dimension), (columns,)
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def _exact(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = rows.double() @ weight.double().T
    return product if bias is None else product + bias.double()


@pytest.mark.parametrize("columns, dimension", SHAPES)
def test_the_layout_and_back(columns, dimension):
    _, weight, _ = _layer(columns, dimension)
    packed = pack_linear(weight)
    assert packed.shape == (-(-columns // 64), -(-dimension // 2), 64, 2)
    column, number = columns - 1, dimension - 1
    assert packed[column // 64, number // 2, column % 64, number % 2] == weight[column, number]
    assert packed.double().abs().sum() == weight.double().abs().sum()  # zeros beside it
    assert torch.equal(unpack_linear(packed, columns, dimension), weight)


@needs_bf16
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("columns, dimension", SHAPES)
def test_against_float64(columns, dimension, biased):
    rows, weight, bias = _layer(columns, dimension)
    bias = bias if biased else None
    packed, exact = pack_linear(weight), _exact(rows, weight, bias)
    # a sum of K float32 products of numbers around 1
    bound = 2e-7 * dimension**0.5 * exact.abs().max().clamp_min(1)
    wide = packed_linear(rows, packed, columns, bias, out_dtype=torch.float32)
    assert wide.dtype == torch.float32 and (wide - exact).abs().max() <= 4 * bound
    rounded = packed_linear(rows, packed, columns, bias)
    assert torch.equal(rounded, wide.bfloat16())


@needs_bf16
@pytest.mark.parametrize("columns, dimension", [(192, 96), (65, 2050)])
def test_a_row_has_the_same_bits_alone_and_among_others(columns, dimension):
    rows, weight, bias = _layer(columns, dimension, rows=400)
    packed = pack_linear(weight)
    together = packed_linear(rows, packed, columns, bias, out_dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5, 6, 7, 13, 191, 193):
            for start in (0, 400 - count):
                torch.set_num_threads(1 + count % 2)
                some = rows[start : start + count]
                alone = packed_linear(some, packed, columns, bias, out_dtype=torch.float32)
                assert torch.equal(alone, together[start : start + count]), (count, start)
    finally:
        torch.set_num_threads(threads)
    assert packed_linear(rows[:0], packed, columns).shape == (0, columns)
    strided = rows.T.contiguous().T
    assert torch.equal(packed_linear(strided, packed, columns, bias), together.bfloat16())


@needs_bf16
def test_no_number_stands_in_for_another():
    """NaN and infinity reach the outputs they belong to and no others; what fills a panel is nothing."""
    rows, weight, _ = _layer(70, 9)
    weight[3, 8], rows[2, 1] = float("inf"), float("nan")
    result = packed_linear(rows, pack_linear(weight), 70)
    assert result[2].isnan().all()
    others = torch.cat([result[:2], result[3:]])
    assert others[:, 3].isinf().all() and others[:, [*range(3), *range(4, 70)]].isfinite().all()


@needs_bf16
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows, packed, bias: (rows.float(), packed, 70, bias), "rows has a wrong dtype"),
        (lambda rows, packed, bias: (rows[0], packed, 70, bias), "rows has 1 dimensions"),
        (lambda rows, packed, bias: (rows[:, :4], packed, 70, bias), "packed has size 5"),
        (lambda rows, packed, bias: (rows, packed, 700, bias), "packed has size 2"),
        (lambda rows, packed, bias: (rows, packed[:, :, ::2], 70, bias), "packed"),
        (lambda rows, packed, bias: (rows, packed, 70, bias[:3]), "bias has size 3"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    rows, weight, bias = _layer(70, 9)
    with pytest.raises(RuntimeError, match=message):
        packed_linear(*change(rows, pack_linear(weight), bias))


@needs_bf16
def test_other_output_types_are_refused():
    rows, weight, _ = _layer(64, 8)
    with pytest.raises(ValueError, match="out_dtype"):
        packed_linear(rows, pack_linear(weight), 64, out_dtype=torch.float16)


@needs_bf16
def test_operator_follows_its_contract():
    rows, weight, bias = _layer(70, 9)
    arguments = rows, pack_linear(weight), bias, 70, True
    torch.library.opcheck(torch.ops.umer1_kernels.packed_linear.default, arguments)
