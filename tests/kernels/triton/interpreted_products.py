"""Products and compaction of the Triton backend under the interpreter; run by test_interpreted.py."""

import pytest
import torch
from primitives_truth import relative_error

from umer1_kernels.backends.triton import products, tables
from umer1_kernels.backends.triton.buffers import empty_rows
from umer1_kernels.backends.triton.primitives import TritonPrimitives

pytestmark = pytest.mark.usefixtures("poisoned_memory")
LIMITS = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 5e-4,
    torch.bfloat16: 3e-3,
}  # of a result in this dtype
# rows, candidates, dimension, live rows
SHAPES = [(1, 63, 100, 1), (63, 100, 8, 40), (100, 199, 65, 64), (40, 64, 64, 0), (33, 40, 16, 99)]


@pytest.fixture
def tiles(request, monkeypatch):
    """Operands by tensor descriptors, or by pointers as on architectures without them."""
    descriptors = request.param == "descriptors"
    tiles = tables.PRODUCT["cpu"].items()
    changed = {role: tile._replace(descriptors=descriptors) for role, tile in tiles}
    monkeypatch.setitem(tables.PRODUCT, "cpu", changed)


def operands(rows, columns, dim, live, dtype):
    """vectors [R, D] and a gradient [R, C] with NaN in their dead rows, candidates [C, D]."""
    vectors, gradient = torch.randn(rows, dim).to(dtype), torch.randn(rows, columns).to(dtype)
    vectors[live:], gradient[live:] = float("nan"), float("nan")
    return vectors, gradient, torch.randn(columns, dim).to(dtype)


@pytest.mark.parametrize(
    "tiles, dtype",
    [
        ("descriptors", torch.float32),
        ("descriptors", torch.float16),
        ("pointers", torch.float32),
    ],
    indirect=["tiles"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_live_rows(tiles, shape, dtype):
    rows, columns, dim, live = shape
    count = torch.tensor(live, dtype=torch.int32)
    vectors, gradient, candidates = operands(*shape, dtype)
    primitives = TritonPrimitives()
    wide_vectors, wide_gradient = vectors[:live].double(), gradient[:live].double()

    logits = products.logits(vectors, candidates, live=count)
    assert logits.dtype == torch.float32
    assert relative_error(logits[:live], wide_vectors @ candidates.double().T) <= 1e-6

    product = primitives.multiply(gradient, candidates, live=count)
    wanted = torch.zeros(rows, dim, dtype=torch.float64)
    wanted[:live] = wide_gradient @ candidates.double()
    assert product.dtype == dtype and relative_error(product, wanted) <= LIMITS[dtype]
    assert (product[live:] == 0).all()

    transposed = primitives.transpose_multiply(gradient, vectors, live=count)
    assert transposed.dtype == dtype
    assert relative_error(transposed, wide_gradient.T @ wide_vectors) <= LIMITS[dtype]

    start = torch.randn(columns, dim)
    total = start.clone()
    primitives.accumulate(total, gradient, vectors, live=count)
    wanted = start.double() + wide_gradient.T @ wide_vectors
    assert relative_error(total, wanted) <= 1e-6


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("live", [None, 30])
def test_products_of_every_dtype(dtype, live):
    """Also without a count, where libraries multiply, and into results that are given."""
    vectors, gradient, candidates = operands(50, 70, 24, 50 if live is None else live, dtype)
    count = None if live is None else torch.tensor(live, dtype=torch.int32)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    primitives, stop = TritonPrimitives(), 50 if live is None else live
    exact = LIMITS[compute]
    logits = products.logits(vectors, candidates, live=count)
    wanted = vectors.double() @ candidates.double().T
    assert logits.dtype == compute and relative_error(logits[:stop], wanted[:stop]) <= exact
    out = torch.empty(50, 24, dtype=dtype)
    assert primitives.multiply(gradient, candidates, live=count, out=out) is out
    wanted = gradient.double() @ candidates.double()
    assert relative_error(out[:stop], wanted[:stop]) <= LIMITS[dtype] and (out[stop:] == 0).all()
    total = torch.ones(70, 24, dtype=compute)
    primitives.accumulate(total, gradient, vectors, live=count)
    wanted = gradient[:stop].double().T @ vectors[:stop].double()
    assert relative_error(total, 1 + wanted) <= exact
    transposed = primitives.transpose_multiply(gradient, vectors, live=count)
    assert transposed.dtype == dtype and relative_error(transposed, wanted) <= LIMITS[dtype]


@pytest.mark.parametrize("tiles", ["descriptors", "pointers"], indirect=True)
def test_any_strides_and_a_later_chunk(tiles):
    vectors, gradient, candidates = operands(40, 60, 24, 40, torch.float32)
    count = torch.tensor(30, dtype=torch.int32)
    logits = products.logits(vectors[16:], candidates, live=count, first_row=16)
    assert relative_error(logits[:14], (vectors @ candidates.T)[16:30]) <= 1e-6
    dead = products.logits(vectors[32:], candidates, live=count, first_row=32)
    assert dead.isnan().all()  # nothing was made
    strided = products.logits(
        vectors.T.contiguous().T, torch.stack([candidates] * 2, 2)[:, :, 1], live=count
    )
    assert torch.equal(strided[:30], products.logits(vectors, candidates, live=count)[:30])
    view = empty_rows(gradient, 40, 60, torch.float32).copy_(gradient)
    product = TritonPrimitives().multiply(view, candidates, live=count)
    assert relative_error(product[:30], gradient[:30] @ candidates) <= 1e-6


@pytest.mark.parametrize("live", [0, 3, 33, 70])
def test_few_live_rows_share_a_long_depth(live, monkeypatch):
    """8 programs for 1 to 3 tiles: the depth of 1200 goes in parts, added up in order."""
    monkeypatch.setattr(tables, "multiprocessors", lambda device: 8)
    vectors, gradient, candidates = operands(70, 1200, 24, live, torch.float32)
    count = torch.tensor(live, dtype=torch.int32)
    product = TritonPrimitives().multiply(gradient, candidates, live=count)
    wanted = gradient[:live].double() @ candidates.double()
    assert relative_error(product[:live], wanted) <= 1e-6 and (product[live:] == 0).all()


def test_float32_stays_float32_where_tf32_is_on():
    """The choice that sends float32 to our own kernel; what it computes is tested above."""
    on_gpu = type("OnGpu", (torch.Tensor,), {"is_cuda": property(lambda self: True)})
    vectors = torch.randn(3, 4)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert products._by_kernel(vectors.as_subclass(on_gpu), None)
        assert not products._by_kernel(vectors, None)
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert not products._by_kernel(vectors.as_subclass(on_gpu), None)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_strided_output_is_refused():
    vectors, gradient, candidates = operands(8, 8, 8, 8, torch.float32)
    count = torch.tensor(8, dtype=torch.int32)
    with pytest.raises(ValueError, match="out has strides"):
        TritonPrimitives().multiply(gradient, candidates, live=count, out=torch.empty(8, 8).T)


@pytest.mark.parametrize("length", [1, 63, 1500])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compaction_keeps_the_order(length, share):
    mask = torch.rand(length) < share
    index, live, count = TritonPrimitives().compact(mask)
    wanted = mask.nonzero().squeeze(1)
    assert count == length and live.dtype == torch.int32 and int(live) == len(wanted)
    assert torch.equal(index[: len(wanted)], wanted) and (index[len(wanted) :] == 0).all()


def test_compaction_of_nothing_and_of_strided_masks():
    index, live, count = TritonPrimitives().compact(torch.zeros(0, dtype=torch.bool))
    assert len(index) == int(live) == count == 0
    mask = torch.rand(80) < 0.5
    index, live, _ = TritonPrimitives().compact(torch.stack([mask, ~mask], 1)[:, 0])
    assert torch.equal(index[: int(live)], mask.nonzero().squeeze(1))
