"""Pools and gradients of TritonPrimitives under Triton's interpreter; run by test_interpreted.py."""

import pytest
import torch
from primitives_truth import gradient_truth, relative_error, slack, truth

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.primitives import TritonPrimitives
from umer1_kernels.execution.protocol import Block

pytestmark = pytest.mark.usefixtures("poisoned_memory")
HALVES = (torch.bfloat16, torch.float16)
ROUNDING = {torch.bfloat16: 2e-3, torch.float16: 3e-4}  # of one gradient, by its dtype


def make_block(
    rows, columns, dim, dtype=torch.float32, scale=1.7, ids=False, live=None, size=1.0
) -> Block:
    """Dead rows hold NaN."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    vectors = (size * torch.randn(rows, dim)).to(dtype)
    if live is not None:
        vectors[live:] = float("nan")
    return Block(
        vectors,
        torch.randn(columns, dim).to(dtype),
        torch.tensor(scale, dtype=compute),
        torch.randint(0, columns, (rows,)),
        torch.randint(0, 9, (rows,)) if ids else None,
        torch.randint(0, 9, (columns,)) if ids else None,
        None if live is None else torch.tensor(live, dtype=torch.int32),
    )


def coefficients(block: Block):
    """Row, label and column factors, with zeros among them."""
    count, width = block.rows.shape[0], block.candidates.shape[0]
    row, label, column = (torch.randn(n).to(block.scale.dtype) for n in (count, count, width))
    row[::3], column[::4] = 0.0, 0.0
    return row, label, column


CASES = {
    "one entry, no negative": (1, 1, 8, {}),
    "one row": (1, 199, 5, {}),
    "one candidate each": (63, 1, 3, {}),
    "odd": (63, 100, 17, {}),
    "float64": (63, 199, 17, {"dtype": torch.float64, "live": 40}),
    "bfloat16 ids live": (63, 199, 17, {"dtype": torch.bfloat16, "ids": True, "live": 40}),
    "float16": (17, 199, 63, {"dtype": torch.float16}),
    "none live": (17, 63, 9, {"live": 0}),
    "all live": (17, 63, 9, {"live": 17, "ids": True}),
    "negative scale": (33, 63, 9, {"scale": -2.0, "ids": True, "live": 20}),
    "no scale": (33, 63, 9, {"scale": 0.0}),
    "scale 200": (33, 63, 9, {"scale": 200.0}),
    "logits 1e4": (33, 63, 9, {"scale": 50.0, "size": 200.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_pools_and_gradient_against_float64(name):
    *shape, options = CASES[name]
    block = make_block(*shape, **options)
    found, primitives = truth(block), TritonPrimitives()
    rows, columns = primitives.pools(block, columns=True, moment=True)
    tolerance = slack(block, found)
    for got, wanted in ((rows, found.rows), (columns, found.columns)):
        assert got.best.dtype == got.total.dtype == block.scale.dtype
        torch.testing.assert_close(got.best.double(), wanted.best, rtol=1e-6, atol=1e-5 * shape[2])
        torch.testing.assert_close(got.total.double(), wanted.total, rtol=tolerance, atol=0)
    # exponents may be off by the tolerance, each
    torch.testing.assert_close(
        rows.moment.double(), found.rows.moment, rtol=tolerance, atol=tolerance * shape[1]
    )

    kept = primitives.keep(block, columns=True, moment=True)
    for got, wanted in zip((*kept.rows, *kept.columns[:2]), (*rows, *columns[:2])):
        assert torch.equal(got, wanted)
    row, label, column = coefficients(block)
    for by_column in (column, None):
        wanted = gradient_truth(block, found, row, label, by_column)
        pooled = columns if by_column is not None else None
        got = primitives.gradient(block, rows, row, label, pooled, by_column)
        assert got.dtype == block.rows.dtype and got.shape == wanted.shape
        limit = 2 * tolerance + ROUNDING.get(got.dtype, 0.0)
        assert relative_error(got, wanted) <= limit
        assert (got[wanted == 0] == 0).all()
    from_kept = kept.gradient(row, label)
    assert from_kept.dtype == got.dtype and torch.equal(from_kept, got)


def test_entropy_slope():
    block = make_block(33, 199, 9, scale=0.7, live=20)
    found, primitives = truth(block), TritonPrimitives()
    rows, _ = primitives.pools(block, moment=True)
    row, label, _ = coefficients(block)
    slope = torch.randn(33)
    slope[::2] = 0.0
    got = primitives.gradient(block, rows, row, label, slope=slope)
    assert relative_error(got, gradient_truth(block, found, row, label, slope=slope)) < 1e-5


def test_coefficients_of_zero_silence_their_pools():
    """A row without negatives has best -inf; a pool may hold anything where nothing uses it."""
    block = make_block(5, 40, 9)
    primitives = TritonPrimitives()
    rows, columns = primitives.pools(block, columns=True)
    for pools in (rows, columns):
        pools.best[::2], pools.total[::2] = float("-inf"), float("nan")
    row, column = torch.ones(5), torch.ones(40)
    row[::2], column[::2] = 0.0, 0.0
    got = primitives.gradient(block, rows, row, torch.zeros(5), columns, column)
    assert got.isfinite().all() and (got[::2, ::2] == 0).all() and (got[1::2, 1::2] != 0).any()


def test_near_ties_keep_their_digits_at_any_scale():
    """Logits 4096 + k/1024 are exact in float32; times 200 they would be 1/16 apart."""
    steps = torch.randint(0, 20, (1, 150)) / 1024
    block = make_block(1, 150, 1, scale=200.0)
    block.rows, block.candidates = torch.ones(1, 1), (4096 + steps).T.contiguous()
    found, primitives = truth(block), TritonPrimitives()
    rows, columns = primitives.pools(block, columns=True)
    torch.testing.assert_close(rows.total.double(), found.rows.total, rtol=1e-6, atol=0)
    one, none = torch.ones(1), torch.zeros(1)
    by_row = primitives.gradient(block, rows, one, none)
    assert relative_error(by_row, gradient_truth(block, found, one, none)) < 1e-6
    pools = columns._replace(best=columns.best + 1 / 1024)  # one candidate's best is its only logit
    by_column = primitives.gradient(block, rows, none, none, pools, torch.ones(150))
    assert (
        relative_error(by_column, torch.exp(by_column.new_tensor(-200 / 1024)) * (by_row != 0))
        < 1e-6
    )


def test_chunks_of_rows_give_the_same(monkeypatch):
    """The workspace is bounded: rows in chunks, here of 16, and the count of live rows in one."""
    block = make_block(63, 70, 9, torch.bfloat16, ids=True, live=37)
    row, label, column = coefficients(block)
    primitives = TritonPrimitives()
    results = []
    for limit in (tables.CHUNK_LOGITS, 1):
        monkeypatch.setattr(tables, "CHUNK_LOGITS", limit)
        monkeypatch.setattr(tables, "CHUNK_ROWS", 16)
        rows, columns = primitives.pools(block, columns=True)
        gradient = primitives.gradient(block, rows, row, label, columns, column)
        results.append((*rows[:2], *columns[:2], gradient.float()))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_repeats_bitwise_and_takes_any_strides(dtype):
    block = make_block(20, 70, 24, dtype, ids=True, live=13)
    row, label, column = coefficients(block)
    label = torch.ones(()).expand(20)
    strided = Block(
        torch.stack([block.rows, block.rows.flip(0)], 2)[:, :, 0],
        block.candidates.T.contiguous().T,
        block.scale,
        torch.stack([block.excluded] * 2, 1)[:, 0],
        torch.stack([block.row_id] * 2, 1)[:, 0],
        torch.stack([block.candidate_id] * 3, 1)[:, 1],
        block.live,
    )
    primitives, results = TritonPrimitives(), []
    for each in (block, block, strided):
        rows, columns = primitives.pools(each, columns=True)
        gradient = primitives.gradient(each, rows, row, label, columns, column)
        results.append((*rows[:2], *columns[:2], gradient))
    for first, again, other in zip(*results):
        assert torch.equal(first, again) and torch.equal(first, other)


def test_kept_logits_are_used_once():
    kept = TritonPrimitives().keep(make_block(3, 5, 2))
    kept.gradient(torch.ones(3), torch.ones(3))
    with pytest.raises(RuntimeError, match="already taken"):
        kept.gradient(torch.ones(3), torch.ones(3))
