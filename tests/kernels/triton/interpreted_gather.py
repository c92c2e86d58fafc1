"""Reward scores, hidden gather and generation step under the interpreter; run by test_interpreted.py."""

import pytest
import torch

from umer1_kernels import GenerationGather
from umer1_kernels.backends.triton import hidden_gather
from umer1_kernels.backends.triton.reward import score_side
from umer1_kernels.reference import gather_hidden as reference_gather
from umer1_kernels.reference.reward import score_side as reference_scores
from umer1_kernels.rollout_groups import Side

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize(
    "pairs, size, first, all_pairs, dtype",
    [
        (2, 3, 0, 2, torch.float32),
        (1, 4, 2, 4, torch.float64),
        (1, 3, 0, 1, torch.float32),
        (3, 1, 0, 3, torch.float64),
        (1, 70, 0, 2, torch.float32),
    ],
)
def test_scores_with_ties_and_invalid_rollouts(pairs, size, first, all_pairs, dtype):
    rows, candidates = pairs * size, all_pairs * size
    side = Side(
        (torch.randint(-3, 4, (rows, candidates)) / 3).to(dtype),  # a coarse grid makes ties
        torch.rand(rows) < 0.8,
        torch.rand(candidates) < 0.7,
        torch.tensor(1 / 3, dtype=dtype),
        size,
        first,
    )
    if size == 70:  # one row of a long group is enough
        side.similarity, side.row_valid = side.similarity[:1], side.row_valid[:1] | True
    for got, wanted in zip(score_side(side), reference_scores(side)):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted.double(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("occurrence", ["last", "first"])
@pytest.mark.parametrize("normalize", [True, False])
def test_gather_and_its_gradient(dtype, occurrence, normalize):
    """Sequences longer than a step of the search, empty ones, one without the token."""
    hidden = torch.randn(300, 99, dtype=dtype)[:, :97].requires_grad_()
    ids = torch.randint(0, 40, (300,))
    ids[150:160] = 1
    options = {
        "cu_seqlens": torch.tensor([0, 7, 7, 150, 160, 300]),
        "start": torch.tensor([2, 0, 9, 0, 50]),
        "occurrence": occurrence,
        "normalize": normalize,
    }
    got = hidden_gather.gather_hidden(hidden, ids, 2, **options)
    wanted = reference_gather(hidden, ids, 2, **options)
    assert torch.equal(got.index, wanted.index) and -1 in got.index.tolist()
    torch.testing.assert_close(got.vectors, wanted.vectors, rtol=1e-6, atol=1e-7)
    upstream = torch.randn(97, dtype=got.vectors.dtype).expand(5, 97)
    grads = [torch.autograd.grad(each.vectors, hidden, upstream)[0] for each in (got, wanted)]
    assert grads[0].dtype == dtype
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(*grads, rtol=tolerance, atol=tolerance)


def test_padded_input_never_reads_the_padding():
    hidden, ids = torch.randn(3, 6, 10), torch.zeros(3, 6, dtype=torch.int32)
    ids[0, 4:], ids[1, 5], hidden[0, 4:] = 7, 7, float("nan")
    got = hidden_gather.gather_hidden(hidden, ids, 7, lengths=torch.tensor([4, 6, 0]))
    assert got.index.tolist() == [-1, 5, -1] and (got.vectors[[0, 2]] == 0).all()
    torch.testing.assert_close(got.vectors[1], hidden[1, 5] / hidden[1, 5].norm())


def test_zero_state_and_second_derivative():
    hidden = torch.zeros(1, 2, 4, requires_grad=True)
    vectors, index = hidden_gather.gather_hidden(hidden, torch.tensor([[0, 1]]), 1)
    assert index.tolist() == [1] and (vectors == 0).all()
    assert torch.autograd.grad(vectors.sum(), hidden)[0].isfinite().all()
    moved = (hidden + 1).detach().requires_grad_()
    vectors, _ = hidden_gather.gather_hidden(moved, torch.tensor([[0, 1]]), 1)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(vectors.square().sum(), moved, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_generation_step(dtype):
    """The same slots as the reference class, step by step."""
    wanted = GenerationGather(5, 70, 7)
    vectors, hit = torch.zeros(5, 70), torch.zeros(5, dtype=torch.bool)
    for step in range(3):
        hidden = torch.randn(4, 70, dtype=dtype)
        ids, slots = torch.tensor([7, 7, 7, 3]), torch.tensor([3, -1, step, 4])
        generated = torch.tensor([step > 0, True, step != 1, True])
        wanted.step_(hidden, ids, slots, generated)
        hidden_gather.generation_step_(vectors, hit, hidden, ids, slots, generated, 7, True)
        assert torch.equal(hit, wanted.hit)
        torch.testing.assert_close(vectors, wanted.vectors, rtol=1e-6, atol=1e-7)


def test_operators_are_registered_completely():
    """Shapes without data and gradients agree with what runs."""
    hidden = torch.randn(6, 8, requires_grad=True)
    bounds = torch.tensor([0, 3]), torch.tensor([3, 6])
    arguments = (hidden, torch.tensor([1, 2, 0, 2, 2, 1]), *bounds, 2, True, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(hidden_gather.gather_rows, arguments, test_utils=checks)
