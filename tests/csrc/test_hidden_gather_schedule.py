"""The gather kernels' search, norm and gradient, executed on the CPU, against autograd in float64."""

import ctypes

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umer1_kernels.reference.hidden_gather import EPSILON

TOKEN = 3


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def emulate(library, hidden, ids, begin, end, last, normalize, grad):
    count, size = len(begin), hidden.shape[1]
    vectors, norm = torch.zeros(count, size), torch.zeros(count)
    index, hidden_grad = torch.full((count,), -7), torch.zeros_like(hidden)
    library.gather(
        *map(pointer, (hidden, ids, begin, end)), ctypes.c_int64(count), ctypes.c_int64(size),
        ctypes.c_int64(TOKEN), last, normalize, 5,
        *map(pointer, (vectors, index, norm, grad, hidden_grad)),
    )  # fmt: skip
    return vectors, index, norm, hidden_grad


def truth(hidden, ids, begin, end, last, normalize, grad):
    wide = hidden.double().requires_grad_()
    index = torch.full((len(begin),), -1)
    vectors = torch.zeros(len(begin), hidden.shape[1], dtype=torch.float64)
    for b, (low, high) in enumerate(zip(begin.tolist(), end.tolist())):
        places = (ids[low:high] == TOKEN).nonzero().flatten()
        if len(places) == 0:
            continue
        index[b] = low + places[-1 if last else 0]
        row = wide[index[b]]
        vectors[b] = row / row.norm().clamp_min(EPSILON) if normalize else row
    if (index < 0).all():
        return vectors, index, torch.zeros_like(wide)
    (gradient,) = torch.autograd.grad(vectors, wide, grad.double())
    return vectors.detach(), index, gradient


@pytest.fixture(scope="module")
def library(compiled):
    return compiled("hidden_gather")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_lengths_and_sizes(library, data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    lengths = data.draw(
        st.lists(st.sampled_from([0, 1, 5, 1023, 1024, 1025, 3000]), min_size=1, max_size=4)
    )
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    begin, end = bounds[:-1].clone(), bounds[1:].clone()
    begin += data.draw(st.sampled_from([0, 2]))  # some sequences have nothing left to search
    total, size = max(int(bounds[-1]), 1), data.draw(st.sampled_from([1, 6, 1024, 1030]))
    hidden = torch.randn(total, size)
    # rare, so that whole rounds of the search find nothing
    ids = torch.where(torch.rand(total) < data.draw(st.sampled_from([0.0, 1e-3, 0.5])), TOKEN, 0)
    last, normalize = data.draw(st.booleans()), data.draw(st.booleans())
    grad = torch.randn(len(begin), size)
    vectors, index, norm, gradient = emulate(
        library, hidden, ids, begin, end, last, normalize, grad
    )
    wanted, place, wanted_gradient = truth(hidden, ids, begin, end, last, normalize, grad)
    assert torch.equal(index, place)
    torch.testing.assert_close(vectors.double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted_gradient, atol=1e-5, rtol=1e-5)
    found = index >= 0
    torch.testing.assert_close(norm[found], hidden[index[found]].norm(dim=1))


@pytest.mark.parametrize("last", [True, False])
def test_the_right_occurrence_at_every_position(library, last):
    """Both ends of rounds of 1024 positions."""
    for one, other in ((0, 1), (0, 1023), (1023, 1024), (1024, 2047), (1022, 2048), (2048, 2049)):
        hidden, ids = torch.randn(2050, 2), torch.zeros(2050, dtype=torch.long)
        ids[[one, other]] = TOKEN
        zero, length = torch.tensor([0]), torch.tensor([2050])
        grad = torch.zeros(1, 2)
        index = emulate(library, hidden, ids, zero, length, last, True, grad)[1]
        assert index.item() == (other if last else one)


def test_a_zero_state_and_a_nan_state(library):
    hidden = torch.zeros(2, 5)
    hidden[1] = torch.tensor([1.0, float("nan"), 2.0, 3.0, 4.0])
    ids, begin = torch.full((2,), TOKEN), torch.tensor([0, 1])
    vectors, _, norm, gradient = emulate(
        library, hidden, ids, begin, begin + 1, True, True, torch.ones(2, 5)
    )
    assert (vectors[0] == 0).all() and norm[0] == 0 and gradient[0].isfinite().all()
    # one bad number is not hidden by the others
    assert vectors[1].isnan().all() and norm[1].isnan() and gradient[1].isnan().all()
