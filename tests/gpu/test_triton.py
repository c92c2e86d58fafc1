"""On a GPU: the Triton backend's primitives against float64, and what a GPU alone can show.

Sizes cross the tiles of every kernel. The truth is the one of the interpreted tests.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "triton"))
from primitives_truth import gradient_truth, relative_error, slack, truth  # noqa: E402

from umer1_kernels.execution.protocol import Block, Pools  # noqa: E402

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
# of one rounded gradient or product, by its dtype
ROUNDING = {FLOAT64: 1e-13, FLOAT32: 2e-5, FLOAT16: 4e-4, BFLOAT16: 2.5e-3}


@pytest.fixture(scope="module")
def primitives():
    from umer1_kernels.backends.triton.primitives import TritonPrimitives

    return TritonPrimitives()


def make_block(
    rows, columns, dim, dtype=FLOAT32, scale=2.0, ids=False, live=None, size=1.0
) -> Block:
    """Unit vectors times `size`; dead rows hold NaN."""
    compute = FLOAT64 if dtype == FLOAT64 else FLOAT32
    normal = lambda n: torch.nn.functional.normalize(torch.randn(n, dim, device="cuda"), dim=1)
    integers = lambda high, n: torch.randint(0, high, (n,), device="cuda")
    vectors = (size * normal(rows)).to(dtype)
    if live is not None:
        vectors[live:] = float("nan")
    return Block(
        vectors,
        normal(columns).to(dtype),
        torch.tensor(scale, dtype=compute, device="cuda"),
        integers(columns, rows),
        integers(max(columns // 3, 1), rows) if ids else None,
        integers(max(columns // 3, 1), columns) if ids else None,
        None if live is None else torch.tensor(live, dtype=torch.int32, device="cuda"),
    )


def coefficients(block: Block):
    count, width = block.rows.shape[0], block.candidates.shape[0]
    make = lambda n: torch.randn(n, dtype=block.scale.dtype, device="cuda")
    row, label, column = make(count), make(count), make(width)
    row[::3], column[::4] = 0.0, 0.0
    return row, label, column


CASES = {
    "one entry, no negative": (1, 1, 8, {}),
    "one row": (1, 5003, 64, {"dtype": BFLOAT16}),
    "odd": (63, 199, 17, {}),
    "odd bfloat16": (199, 1000, 63, {"dtype": BFLOAT16, "ids": True}),
    "float64": (100, 199, 33, {"dtype": FLOAT64, "live": 40, "ids": True}),
    "float16": (130, 2000, 896, {"dtype": FLOAT16}),
    "batch": (1024, 1024, 1536, {"dtype": BFLOAT16, "scale": 50.0}),
    "batch ids": (1000, 3000, 1152, {"dtype": BFLOAT16, "scale": 50.0, "ids": True}),
    "vocabulary live": (
        300,
        32003,
        128,
        {"dtype": BFLOAT16, "scale": 1.0, "live": 170, "size": 20},
    ),
    "vocabulary float32": (300, 32000, 128, {"scale": 1.0, "live": 170, "size": 20}),
    "none live": (70, 600, 64, {"dtype": BFLOAT16, "live": 0}),
    "all live": (257, 513, 64, {"dtype": BFLOAT16, "live": 257}),
    "negative scale": (129, 700, 72, {"scale": -20.0, "ids": True, "live": 100}),
    "no scale": (129, 700, 72, {"scale": 0.0}),
    "scale 200": (129, 700, 72, {"scale": 200.0}),
    "logits 1e4": (129, 700, 72, {"scale": 50.0, "size": 200.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_pools_and_gradients_against_float64(primitives, poisoned_memory, name):
    *shape, options = CASES[name]
    torch.manual_seed(0)
    block = make_block(*shape, **options)
    found = truth(block)
    rows, columns = primitives.pools(block, columns=True, moment=True)
    tolerance = 4 * slack(block, found)  # tensor cores add with fewer guard bits
    largest = 1e-5 * (1 + float(found.logits.abs().max()))
    for got, wanted in ((rows, found.rows), (columns, found.columns)):
        torch.testing.assert_close(got.best.double(), wanted.best, rtol=1e-6, atol=largest)
        torch.testing.assert_close(got.total.double(), wanted.total, rtol=tolerance, atol=0)
    error = (rows.moment.double() - found.rows.moment).abs()
    assert (error <= tolerance * (1 + found.rows.moment.abs() + found.rows.total)).all()

    kept = primitives.keep(block, columns=True)
    row, label, column = coefficients(block)
    slope = torch.randn_like(row)
    for arguments in ({}, {"columns": columns, "column": column}, {"slope": slope}):
        got = primitives.gradient(block, rows, row, label, **arguments)
        extra = {key: arguments.get(key) for key in ("column", "slope")}
        wanted = gradient_truth(block, found, row, label, **extra)
        assert got.dtype == block.rows.dtype
        assert relative_error(got, wanted) <= 3 * tolerance + ROUNDING[got.dtype]
        assert (got[wanted == 0] == 0).all()
    from_kept = kept.gradient(row, label, column)
    wanted = gradient_truth(block, found, row, label, column)
    assert relative_error(from_kept, wanted) <= 3 * tolerance + ROUNDING[got.dtype]


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16, FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("live", [None, 0, 1, 300, 512])
@pytest.mark.parametrize("shape", [(512, 1000, 384), (400, 1003, 63), (512, 32000, 1536)], ids=str)
def test_products(primitives, poisoned_memory, shape, live, dtype):
    from umer1_kernels.backends.triton import products

    rows, columns, dim = shape
    stop = rows if live is None else min(live, rows)
    count = None if live is None else torch.tensor(live, dtype=torch.int32, device="cuda")
    vectors, gradient, candidates = (
        torch.randn(size, device="cuda").to(dtype)
        for size in ((rows, dim), (rows, columns), (columns, dim))
    )
    vectors[stop:], gradient[stop:] = float("nan"), float("nan")
    wide = vectors[:stop].double(), gradient[:stop].double(), candidates.double()
    exact = ROUNDING[FLOAT64 if dtype == FLOAT64 else FLOAT32]

    logits = products.logits(vectors, candidates, live=count)
    assert relative_error(logits[:stop], wide[0] @ wide[2].T) <= exact
    product = primitives.multiply(gradient, candidates, live=count)
    assert product.dtype == dtype and (product[stop:] == 0).all()
    assert relative_error(product[:stop], wide[1] @ wide[2]) <= ROUNDING[dtype]
    transposed = primitives.transpose_multiply(gradient, vectors, live=count)
    assert transposed.dtype == dtype
    assert relative_error(transposed, wide[1].T @ wide[0]) <= ROUNDING[dtype]
    start = torch.randn(columns, dim, device="cuda", dtype=logits.dtype)
    total = start.clone()
    primitives.accumulate(total, gradient, vectors, live=count)
    assert relative_error(total, start.double() + wide[1].T @ wide[0]) <= exact


@pytest.mark.parametrize("live", [None, 200])
def test_tf32_switched_on_elsewhere_changes_nothing(primitives, live):
    block = make_block(256, 512, 256, live=live)
    found = truth(block)
    row, label, _ = coefficients(block)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        rows, _ = primitives.pools(block)
        gradient = primitives.gradient(block, rows, row, label)
        product = primitives.multiply(gradient, block.candidates, live=block.live)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(rows.total.double(), found.rows.total, rtol=1e-5, atol=0)
    # TF32 would be off by 3e-4
    assert relative_error(product, gradient.double() @ block.candidates.double()) <= 2e-5


def run(primitives, block: Block, coefficients) -> tuple[torch.Tensor, ...]:
    """All primitives once."""
    row, label, column = coefficients
    rows, columns = primitives.pools(block, columns=True, moment=True)
    gradient = primitives.gradient(block, rows, row, label, columns, column)
    by_rows = primitives.multiply(gradient, block.candidates, live=block.live)
    by_columns = primitives.transpose_multiply(gradient, block.rows, live=block.live)
    total = torch.zeros_like(block.candidates, dtype=block.scale.dtype)
    primitives.accumulate(total, gradient, block.rows, live=block.live)
    kept = primitives.keep(block).gradient(row, label)
    index, live, _ = primitives.compact(block.excluded % 3 == 0)
    return *rows, *columns[:2], gradient, by_rows, by_columns, total, kept, index, live


@pytest.mark.parametrize("live", [None, 150])
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32], ids=str)
def test_repeats_bitwise_and_never_waits_for_the_device(primitives, dtype, live):
    block = make_block(300, 700, 128, dtype, ids=True, live=live)
    factors = coefficients(block)
    first = run(primitives, block, factors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = run(primitives, block, factors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(one, other) for one, other in zip(first, again))


def test_a_captured_graph_replays_other_inputs_and_other_counts(primitives):
    block, other = (make_block(300, 700, 128, BFLOAT16, live=live) for live in (150, 290))
    factors = coefficients(block)
    run(primitives, block, factors)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(primitives, block, factors)
    for name in ("rows", "candidates", "scale", "excluded", "live"):
        getattr(block, name).copy_(getattr(other, name))
    graph.replay()
    torch.cuda.synchronize()
    got = [result.clone() for result in results]
    for one, wanted in zip(got, run(primitives, block, factors)):
        assert torch.equal(one, wanted)


def test_lengths_do_not_compile_again(primitives):
    from umer1_kernels.backends.triton import column_pools, compaction, gradient, product_kernel
    from umer1_kernels.backends.triton import row_pools as rows

    kernels = (
        rows.row_pools_kernel, column_pools.column_partials_kernel, gradient.gradient_kernel,
        column_pools.merge_partials_kernel, product_kernel.product_kernel,
        product_kernel.merge_parts_kernel, compaction.place_kernel,
    )  # fmt: skip
    cached = lambda: [sum(len(c[0]) for c in kernel.device_caches.values()) for kernel in kernels]

    def launch(length):
        block = make_block(length, 2056, 64, BFLOAT16, live=length // 2)
        run(primitives, block, coefficients(block))

    launch(256)
    before = cached()
    for length in (1, 2, 16, 17, 100, 1000, 4096):
        launch(length)
    assert cached() == before and sum(before) > 0


def test_pools_and_accumulation_need_a_bounded_workspace(primitives):
    """16 GiB of logits by way of 256 MiB; a float32 sum without a copy of itself."""
    block = make_block(65536, 65536, 64, BFLOAT16, scale=20.0)

    def extra(call) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before

    primitives.pools(make_block(256, 512, 64, BFLOAT16), columns=True)  # cuBLAS's own workspace
    assert extra(lambda: primitives.pools(block, columns=True)) < 400 * 2**20
    left = torch.randn(1024, 65536, device="cuda", dtype=BFLOAT16)
    right = torch.randn(1024, 1024, device="cuda", dtype=BFLOAT16)
    total = torch.zeros(65536, 1024, device="cuda")  # 256 MiB
    primitives.accumulate(total, left, right)
    assert extra(lambda: primitives.accumulate(total, left, right)) < 64 * 2**20


def test_more_than_2_to_the_31_logits(primitives):
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip("needs 60 GiB")
    count, width = 20_000, 120_016
    block = make_block(count, width, 64, BFLOAT16, scale=20.0)
    kept = primitives.keep(block, columns=True)
    tail = slice(count - 100, count)
    part = Block(block.rows[tail], block.candidates, block.scale, block.excluded[tail])
    found = truth(part)
    torch.testing.assert_close(kept.rows.total[tail].double(), found.rows.total, rtol=1e-4, atol=0)
    row = 1 / kept.rows.total
    gradient = kept.gradient(row, -torch.ones_like(row))
    wanted = gradient_truth(part, found, row[tail], -torch.ones_like(row[tail]))
    assert relative_error(gradient[tail], wanted) < 2.5e-3
    product = primitives.multiply(gradient, block.candidates)
    assert relative_error(product[tail], wanted @ block.candidates.double()) < 4e-3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensors_counts(primitives):
    block = make_block(64, 100, 32)
    moved = Block(
        *(getattr(block, name).to("cuda:1") for name in ("rows", "candidates", "scale", "excluded"))
    )
    for one, other in zip(primitives.pools(block)[0][:2], primitives.pools(moved)[0][:2]):
        assert torch.equal(one, other.to("cuda:0"))


def test_coefficients_of_zero_silence_their_pools(primitives):
    block = make_block(50, 400, 32)
    bad = Pools(*(torch.full((50,), float("nan"), device="cuda") for _ in range(2)))
    zeros = torch.zeros(50, device="cuda")
    assert (primitives.gradient(block, bad, zeros, zeros) == 0).all()
