"""gather_hidden and GenerationGather: the released read-out hazards, and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1_kernels import GenerationGather, gather_hidden

TOKEN = 151657


def test_prompt_token_is_not_taken_for_the_answers(backend):
    """Hazard H1: the token stands at 236 (in the instruction) and at 269 (the answer's)."""
    hidden = torch.randn(1, 280, 8)
    ids = torch.zeros(1, 280, dtype=torch.long)
    ids[0, [236, 269]] = TOKEN
    vectors, index = gather_hidden(hidden, ids, TOKEN, normalize=False, backend=backend)
    assert index.tolist() == [269] and torch.equal(vectors, hidden[:, 269])
    first = gather_hidden(hidden, ids, TOKEN, occurrence="first", normalize=False, backend=backend)
    assert first.index.tolist() == [236] and torch.equal(first.vectors, hidden[:, 236])


def test_truncated_answer_is_a_miss(backend):
    """Hazards H2, H15: a cut answer has no token; the instruction's must not stand in."""
    hidden = torch.randn(2, 10, 4, requires_grad=True)
    ids = torch.zeros(2, 10, dtype=torch.long)
    ids[:, 3] = TOKEN
    ids[1, 7] = TOKEN
    start = torch.tensor([5, 5])
    vectors, index = gather_hidden(hidden, ids, TOKEN, start=start, backend=backend)
    assert index.tolist() == [-1, 7]
    assert (vectors[0] == 0).all()
    (grad,) = torch.autograd.grad(vectors.sum(), hidden)
    assert (grad[0] == 0).all() and (grad[1, 7] != 0).any()
    assert torch.count_nonzero(grad.abs().sum(2)) == 1


def test_absent_token_never_reads_padding(backend):
    """Hazards H3, H25: no token in the row; the padding (whatever it holds) changes nothing."""
    hidden = torch.randn(2, 6, 4)
    ids = torch.zeros(2, 6, dtype=torch.long)
    ids[0, 4:] = TOKEN  # garbage after the end
    ids[1, 5] = TOKEN
    lengths = torch.tensor([4, 6])
    one = gather_hidden(hidden, ids, TOKEN, lengths=lengths, backend=backend)
    hidden[0, 4:] = float("nan")
    other = gather_hidden(hidden, ids, TOKEN, lengths=lengths, backend=backend)
    assert one.index.tolist() == [-1, 5] and (one.vectors[0] == 0).all()
    assert torch.equal(one.vectors, other.vectors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_packed_equals_padded_and_autograd(backend, dtype, normalize):
    lengths, size = [7, 1, 12, 3], 33
    rows = torch.randn(sum(lengths), size, dtype=dtype, requires_grad=True)
    ids = torch.randint(0, 3, (sum(lengths),))
    cu = torch.tensor([0, 7, 8, 20, 23], dtype=torch.int32)
    packed = gather_hidden(rows, ids, 2, cu_seqlens=cu, normalize=normalize, backend=backend)

    wide = rows.to(torch.float64 if dtype == torch.float64 else torch.float32)
    truth = torch.zeros(4, size, dtype=wide.dtype)
    for b, (begin, end) in enumerate(zip(cu[:-1].tolist(), cu[1:].tolist())):
        found = (ids[begin:end] == 2).nonzero()
        if len(found):
            state = wide[begin + found[-1, 0]]
            truth[b] = F.normalize(state, dim=0) if normalize else state
            assert packed.index[b] == begin + found[-1, 0]
        else:
            assert packed.index[b] == -1
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-6}[dtype]
    assert packed.vectors.dtype == truth.dtype
    assert torch.allclose(packed.vectors, truth, atol=tolerance)
    upstream = torch.randn_like(truth)
    got, expected = (torch.autograd.grad(x, rows, upstream)[0] for x in (packed.vectors, truth))
    assert got.dtype == dtype
    assert torch.allclose(
        got.double(), expected.double(), atol=1e-2 if dtype == torch.bfloat16 else 1e-5
    )

    padded = torch.nn.utils.rnn.pad_sequence(rows.split(lengths), batch_first=True)
    padded_ids = torch.nn.utils.rnn.pad_sequence(
        ids.split(lengths), batch_first=True, padding_value=2
    )
    other = gather_hidden(
        padded, padded_ids, 2, lengths=torch.tensor(lengths), normalize=normalize, backend=backend
    )
    assert torch.equal(other.vectors, packed.vectors)
    assert torch.equal(other.index, torch.where(packed.index < 0, -1, packed.index - cu[:-1]))


def test_gradcheck(backend):
    hidden = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[1, 2, 1, 0], [2, 2, 2, 2], [0, 1, 0, 1]])
    torch.autograd.gradcheck(lambda h: gather_hidden(h, ids, 2, backend=backend).vectors, (hidden,))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_backends_agree_on_ragged_batches(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    total = sum(lengths)
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    hidden, ids = torch.randn(total, 5), torch.randint(0, 4, (total,))
    if total == 0:
        return
    options = {
        "occurrence": data.draw(st.sampled_from(["last", "first"])),
        "start": torch.tensor([data.draw(st.integers(0, 10)) for _ in lengths]),
        "cu_seqlens": cu,
    }
    one, other = (gather_hidden(hidden, ids, 2, backend=b, **options) for b in ("cpu", "reference"))
    assert torch.equal(one.index, other.index)
    assert torch.allclose(one.vectors, other.vectors, atol=1e-6)


def test_strided_states_and_expanded_gradients(backend):
    wide = torch.randn(9, 20, dtype=torch.float64, requires_grad=True)
    ids, cu = torch.tensor([2, 0, 2, 0, 2, 1, 1, 1, 2]), torch.tensor([0, 4, 9])
    for view in (wide[:, 5:12], wide[:, ::2], wide.T.contiguous().T[:, :7]):
        got = gather_hidden(view, ids, 2, cu_seqlens=cu, backend=backend).vectors
        truth = gather_hidden(view.contiguous(), ids, 2, cu_seqlens=cu, backend="reference").vectors
        expanded = torch.ones((), dtype=torch.float64).expand_as(got)
        grads = [torch.autograd.grad(x, wide, expanded, retain_graph=True)[0] for x in (got, truth)]
        assert torch.allclose(got, truth) and torch.allclose(*grads)


def test_zero_state_gives_zero_not_nan(backend):
    hidden = torch.zeros(1, 2, 4, requires_grad=True)
    vectors, index = gather_hidden(hidden, torch.tensor([[0, 1]]), 1, backend=backend)
    assert index.tolist() == [1] and (vectors == 0).all()
    assert torch.autograd.grad(vectors.sum(), hidden)[0].isfinite().all()


def test_memory_is_written_before_it_is_read(poisoned_memory, backend):
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    vectors, index = gather_hidden(hidden, torch.tensor([[0, 1, 0], [0, 0, 0]]), 1, backend=backend)
    assert index.tolist() == [1, -1]
    assert (
        vectors.isfinite().all() and torch.autograd.grad(vectors.sum(), hidden)[0].isfinite().all()
    )


BAD = {
    "hidden has shape": lambda h, i: gather_hidden(h[0], i, 1),
    "input_ids has shape": lambda h, i: gather_hidden(h, i[:, :2], 1),
    "input_ids has dtype": lambda h, i: gather_hidden(h, i.float(), 1),
    "token_id": lambda h, i: gather_hidden(h, i, None),
    "occurrence": lambda h, i: gather_hidden(h, i, 1, occurrence="any"),
    "lengths has shape": lambda h, i: gather_hidden(h, i, 1, lengths=torch.tensor([1])),
    "lengths holds 9": lambda h, i: gather_hidden(h, i, 1, lengths=torch.tensor([1, 9])),
    "lengths goes with": lambda h, i: gather_hidden(
        h[0], i[0], 1, lengths=torch.tensor([3]), cu_seqlens=torch.tensor([0, 3])
    ),
    "cu_seqlens holds 4": lambda h, i: gather_hidden(
        h[0], i[0], 1, cu_seqlens=torch.tensor([0, 4])
    ),
    "start holds -1": lambda h, i: gather_hidden(h, i, 1, start=torch.tensor([0, -1])),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message](torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))


def test_generation_takes_generated_tokens_only():
    """Hazards H1, H26: a prompt's token never counts; of two generated ones the later stays."""
    gather = GenerationGather(4, 3, TOKEN)
    states = torch.randn(3, 3)
    reading_prompt = torch.tensor([False, True, True])
    gather.step_(states, torch.tensor([TOKEN, TOKEN, 5]), torch.tensor([0, 2, 1]), reading_prompt)
    assert gather.hit.tolist() == [False, False, True, False]
    assert torch.allclose(gather.vectors[2], F.normalize(states[1], dim=0))
    assert (gather.vectors[[0, 1, 3]] == 0).all()
    later = torch.randn(1, 3)
    gather.step_(later, torch.tensor([TOKEN]), torch.tensor([2]), torch.tensor([True]))
    assert torch.allclose(gather.vectors[2], F.normalize(later[0], dim=0))
    gather.reset_(torch.tensor([2]))
    assert not gather.hit.any() and (gather.vectors == 0).all()


def test_generation_rows_without_a_slot_leave_no_trace():
    gather = GenerationGather(2, 3, TOKEN)
    generated = torch.tensor([True, True, True])
    gather.step_(torch.randn(3, 3), torch.full((3,), TOKEN), torch.tensor([-1, 1, -1]), generated)
    assert gather.hit.tolist() == [False, True] and (gather.vectors[0] == 0).all()
