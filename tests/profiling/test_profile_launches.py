"""Costs of Triton kernels from the arguments of their launches, without a GPU: nothing is compiled, hooks run alone."""

import pytest
import torch

pytest.importorskip("triton")

from umer1.profiling.costs import Cost  # noqa: E402
from umer1.profiling.kernel_costs import KERNELS  # noqa: E402
from umer1.profiling.launches import Launches  # noqa: E402
from umer1_kernels.execution.protocol import Block, Pools  # noqa: E402

CUDA = torch.device("cuda")  # only says that kernels are looked for


@pytest.fixture
def launched(monkeypatch):
    """What a call launches, with launches that do nothing."""
    from triton.runtime.jit import JITFunction

    def run(self, *arguments, grid, warmup, **keywords):
        for hook in self.pre_run_hooks:
            hook(*arguments, **keywords)

    monkeypatch.setattr(JITFunction, "run", run)

    def call(function) -> Launches:
        with Launches(CUDA) as launches:
            function()
        return launches

    return call


def block(rows, columns, dim, live=None):
    return Block(
        torch.randn(rows, dim),
        torch.randn(columns, dim),
        torch.tensor(2.0),
        torch.zeros(rows, dtype=torch.int64),
        live=None if live is None else torch.tensor(live, dtype=torch.int32),
    )


def test_rows_that_do_not_count_are_left_out(launched):
    from umer1_kernels.backends.triton.buffers import empty_rows
    from umer1_kernels.backends.triton.row_pools import empty_pools, row_pools

    problem = block(40, 300, 16, live=25)
    logits = empty_rows(problem.rows, 40, 300, torch.float32)
    found = launched(lambda: row_pools(logits, problem, empty_pools(problem, False)))
    assert found.names == {"row_pools_kernel"}
    assert found.costs(["other", "row_pools_kernel"]) == [None, Cost(25 * 300, 25 * 300 * 4)]


def test_a_product_counts_its_live_rows(launched):
    from umer1_kernels.backends.triton import products

    left, right = torch.randn(40, 64), torch.randn(64, 32)
    live = torch.tensor(16, dtype=torch.int32)
    found = launched(lambda: products.multiply(left, right, live=live))
    [cost] = found.costs(["product_kernel"])
    assert cost == Cost(2 * 16 * 64 * 32, 4 * (16 * 64 + 64 * 32 + 16 * 32), "float32")
    total = torch.zeros(64, 32)
    left, right = torch.randn(40, 64), torch.randn(40, 32)
    found = launched(lambda: products.accumulate(total, left, right, live=live))
    [cost] = found.costs(["product_kernel"])
    assert cost.flop == 2 * 64 * 16 * 32
    assert cost.bytes == 4 * (64 * 16 + 16 * 32 + 2 * 64 * 32)


def test_a_gradient_reads_live_rows_and_writes_all(launched):
    from umer1_kernels.backends.triton.buffers import empty_rows
    from umer1_kernels.backends.triton.gradient import logit_gradient

    problem = block(40, 300, 16, live=25)
    logits, out = (empty_rows(problem.rows, 40, 300, kind) for kind in (torch.float32, torch.float16))  # fmt: skip
    vector = torch.zeros(40)
    pools = Pools(vector, vector)
    found = launched(
        lambda: logit_gradient(logits, problem, pools, vector, vector, None, None, None, out)
    )
    [cost] = found.costs(["gradient_kernel"])
    assert cost.bytes == 25 * 300 * 4 + 40 * 300 * 2


def test_columns_gather_and_reward(launched):
    from umer1_kernels.backends.triton.buffers import empty_rows
    from umer1_kernels.backends.triton.column_pools import column_pools
    from umer1_kernels.backends.triton.compaction import compact
    from umer1_kernels.backends.triton.hidden_gather_kernels import gather, scatter
    from umer1_kernels.backends.triton.reward_kernel import scores

    problem = block(40, 300, 16)
    logits = empty_rows(problem.rows, 40, 300, torch.float32)
    hidden, ids = torch.randn(50, 8), torch.zeros(50, dtype=torch.int64)
    begin, end = torch.tensor([0, 20]), torch.tensor([20, 50])
    valid = torch.ones(12, dtype=torch.bool)

    def everything():
        column_pools(logits, problem, Pools(torch.zeros(300), torch.zeros(300)))
        compact(torch.ones(50, dtype=torch.bool))
        vectors, index, norm = gather(hidden, ids, begin, end, 1, True, True)
        scatter(vectors, vectors, index, norm, 50, torch.float32, True)
        scores(torch.randn(12, 12), valid, valid, torch.tensor(0.5), 4, 0)

    found = launched(everything)
    names = ["column_partials_kernel", "merge_partials_kernel", "place_kernel", "gather_kernel", "scatter_kernel", "scores_kernel"]  # fmt: skip
    assert found.names == set(names)
    columns, merge, place, took, put, reward = found.costs(names)
    assert columns.bytes == 40 * 300 * 4 and merge.bytes == 2 * 2 * 300 * 4
    assert place.bytes == 50 * 13
    assert took.bytes == 2 * 8 * 8 and put.bytes == 2 * 8 * 12
    assert reward == Cost(144, 576)
    assert found.names | {"product_kernel", "row_pools_kernel", "gradient_kernel"} == set(KERNELS)


def test_a_launch_that_the_trace_lost_gives_no_costs(launched):
    from umer1_kernels.backends.triton.compaction import compact

    found = launched(lambda: [compact(torch.ones(5, dtype=torch.bool)) for _ in range(2)])
    assert found.costs(["place_kernel"]) == [None]
    assert None not in found.costs(["place_kernel", "place_kernel"])


def test_hooks_are_gone_afterwards(launched):
    found = launched(lambda: None)
    assert found.kernels and not any(kernel.pre_run_hooks for kernel in found.kernels.values())
    assert not Launches(torch.device("cpu")).kernels
