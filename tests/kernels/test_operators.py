"""The compiled operators: opcheck, torch.compile without graph breaks, errors, threads, exp."""

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import umer1_kernels as kernels
from umer1_kernels.backends.cpu.operators import operators

FLAGS = torch.tensor([True, False, True, True, True, False])
ROWS = torch.arange(3)
IDS = torch.tensor([4, 4, 6])


def unit(*shape, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def samples(dtype):
    """name -> arguments; called per test, since some operators write in place."""
    number = torch.tensor(2.0, dtype=dtype)
    logits, vectors = torch.randn(3, 5, dtype=dtype), unit(3, 4, dtype=dtype)
    row = torch.zeros(3, dtype=dtype)
    candidate_ids = torch.tensor([4, 6, 4, 1, 2])
    loss = (vectors, vectors, vectors, unit(5, 4, dtype=dtype), number, ROWS, ROWS)
    no_ids, ids = (None,) * 4, (IDS, IDS, IDS, candidate_ids)
    return {
        "nce_row_pool": (logits, number, ROWS, None, None),
        "nce_row_pool with ids": (logits, number, ROWS, IDS, candidate_ids),
        "nce_row_gradient_": (logits, number, ROWS, IDS, candidate_ids, row, row + 1),
        "group_reward_scores": (unit(6, 6, dtype=dtype), FLAGS, FLAGS, number, 2, 0),
        "gather_hidden": (
            vectors.clone().requires_grad_(), IDS, torch.tensor([0, 2]), torch.tensor([2, 3]), 4,
            True, True,
        ),
        "gather_hidden_backward_": (
            torch.zeros(5, 4, dtype=dtype), vectors, vectors, torch.tensor([1, -1, 4]), row + 1,
            True,
        ),
        "info_nce_loss": (*loss, *no_ids, row + 1, "q2t,t2q", False, "mean", True),
        "info_nce_loss with ids": (*loss, *ids, row + 1, "q2t,q2q", True, "none", False),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", samples(torch.float32))
def test_opcheck(name, dtype):
    opcheck(getattr(operators, name.split()[0]).default, samples(dtype)[name])


COMPILED = {
    "info_nce": lambda q, t: kernels.info_nce(q, t, scale=20.0),
    "info_nce rows": lambda q, t: kernels.info_nce(
        q, t, directions=("q2t", "q2q"), reduction="none"
    ).sum(),
    "dual_info_nce": lambda q, t: kernels.dual_info_nce((q, t), (t, q)).loss,
    "gather_hidden": lambda q, t: kernels.gather_hidden(
        q + t, torch.tensor([1, 2, 1, 2, 2]), 1, cu_seqlens=torch.tensor([0, 2, 5])
    ).vectors.sum(),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compile_without_graph_breaks_equals_eager_bitwise(name):
    torch._dynamo.reset()
    inputs = unit(5, 8).requires_grad_(), unit(5, 8).requires_grad_()
    eager = COMPILED[name](*inputs)
    compiled = torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager")(*inputs)
    assert torch.equal(eager, compiled)
    grads = [torch.autograd.grad(loss, inputs) for loss in (eager, compiled)]
    assert all(torch.equal(one, other) for one, other in zip(*grads))


def test_compile_of_group_reward():
    torch._dynamo.reset()
    query, target = unit(3, 4, 8), unit(3, 4, 8)

    def reward(query, target):
        return kernels.group_reward(query, target, kind="adaptive_threshold").query_advantage

    compiled = torch.compile(reward, fullgraph=True, backend="aot_eager")
    assert torch.equal(reward(query, target), compiled(query, target))


def test_errors_name_the_argument():
    logits, number = torch.randn(3, 5), torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="excluded holds 5"):
        operators.nce_row_pool(logits, number, torch.tensor([0, 5, 1]), None, None)
    with pytest.raises(RuntimeError, match="go together"):
        operators.nce_row_pool(logits, number, ROWS, IDS, None)
    with pytest.raises(RuntimeError, match="logits must be contiguous"):
        operators.nce_row_pool(logits.T, number, torch.arange(5), None, None)
    with pytest.raises(RuntimeError, match="group_size 4 does not divide"):
        operators.group_reward_scores(torch.randn(6, 6), FLAGS, FLAGS, number, 4, 0)
    with pytest.raises(RuntimeError, match="outside the 3 rows of hidden"):
        operators.gather_hidden(
            torch.randn(3, 2), IDS, torch.tensor([0]), torch.tensor([4]), 4, True, True
        )


def test_exp_is_accurate_over_its_whole_range():
    """The row pass has its own exp: 2e-7 off down to where float32 ends, then exactly 0."""
    x = torch.cat([-torch.linspace(0, 87.2, 4001), torch.tensor([-87.4, -1e4, -3e38])])
    logits = x[None].clone()
    one = torch.ones(1)
    # the excluded first entry is written as 0
    operators.nce_row_gradient_(
        logits, torch.tensor(1.0), torch.tensor([0]), None, None, torch.zeros(1), one
    )
    got, truth = logits[0, 1:].double(), x[1:].double().exp()
    normal = x[1:] > -87.3
    assert ((got - truth).abs() / truth)[normal].max() < 2e-7
    assert (got[~normal] == 0).all() and logits[0, 0] == 0


def test_the_row_pass_is_bitwise_the_same_on_any_number_of_threads():
    logits, number = torch.randn(200, 1003), torch.tensor(7.0)
    excluded, threads = torch.arange(200), torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            best, sums = operators.nce_row_pool(logits, number, excluded, None, None)
            grad = logits.clone()
            operators.nce_row_gradient_(grad, number, excluded, None, None, best, 1 / sums)
            runs.append((best, sums, grad))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for run in runs for one, other in zip(runs[0], run))
