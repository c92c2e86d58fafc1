"""The compiled operators: opcheck, torch.compile without graph breaks, errors, threads, exp."""

import pytest
import torch
import torch.nn.functional as F
from decode_cases import make
from torch.library import opcheck

import umer1_kernels as kernels
from umer1_kernels.backends.cpu.operators import operators

FLAGS = torch.tensor([True, False, True, True, True, False])
ROWS = torch.arange(3)
IDS = torch.tensor([4, 4, 6])
FIVE = torch.arange(5)


def unit(*shape, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def samples(dtype):
    """name -> arguments; called per test, since some operators write in place."""
    number = torch.tensor(2.0, dtype=dtype)
    logits, vectors = torch.randn(3, 5, dtype=dtype), unit(3, 4, dtype=dtype)
    row = torch.zeros(3, dtype=dtype)
    candidate_ids = torch.tensor([4, 6, 4, 1, 2])
    loss = (vectors, unit(5, 4, dtype=dtype), None, number, ROWS)
    wide, heads = torch.randn(3, 4, dtype=dtype), torch.randn(7, 4, dtype=dtype)
    grpo = (wide, heads, IDS, row, row == 0, None, row)
    bf16 = (unit(3, 6).bfloat16(), unit(5, 6).bfloat16(), torch.tensor(2.0), ROWS, None, None)
    kept = torch.zeros(3, 5, dtype=torch.bfloat16)
    ones = torch.ones(3)
    half = torch.float32 if dtype == torch.float32 else torch.bfloat16  # decoding has no float64
    context = make([0, -1, 0], [5], [3, 9, 1], size=8, group=2, page_length=4, dtype=half)
    pages = [torch.zeros(3, 2, 4, 8, dtype=half) for _ in range(2)]
    tokens, places = context.query[:, :2], torch.tensor([1, -1, 3], dtype=torch.int32)
    return {
        "row_pools": (logits, number, ROWS, None, None, False),
        "row_pools with ids": (logits, number, ROWS, IDS, candidate_ids, True),
        "column_pools": (logits, number, ROWS, IDS, candidate_ids),
        "softmax_gradient_": (
            logits, number, ROWS, IDS, candidate_ids, row, row + 1, row, None, None, None,
        ),
        "bf16_pools": (*bf16, True, True),
        "bf16_keep": (*bf16, True, True, kept),
        "bf16_kept_gradient_": (
            kept, number.float(), ROWS, torch.zeros(3, 1), ones, ones, ones, None, None,
        ),
        "bf16_gradient_": (*bf16, ones, ones, ones, None, None, None, kept),
        "info_nce_loss": (
            *loss, None, None, None, row + 1, 0, 0, "q2t,t2q", False, "mean", True, True, True,
            "cpu",
        ),
        "info_nce_loss with ids": (
            *loss, IDS, candidate_ids, None, row + 1, -1, 0, "q2t,q2q", True, "none", False, True, True,
            "cpu",
        ),
        "linear_cross_entropy_sum": (wide, heads, IDS, row == 0, True, True, True, "cpu"),
        "linear_logprob_values": (wide, heads, IDS, row == 0, 0.7, True, "cpu"),
        "grpo_loss_sum": (*grpo, 0.2, 0.28, 0.04, 9.0, 1.0, True, False, "cpu"),
        "group_reward": (
            unit(6, 6, dtype=dtype), unit(6, 6, dtype=dtype), *[FLAGS] * 4, number, 2, 0, 3,
        ),
        "group_reward of all rows": (
            unit(6, 6, dtype=dtype), unit(6, 6, dtype=dtype), *[None] * 5, 2, 0, 0,
        ),
        "gather_hidden": (
            vectors.clone().requires_grad_(), IDS, torch.tensor([0, 2]), torch.tensor([2, 3]), 4,
            True, True,
        ),
        "gather_hidden_backward_": (
            torch.zeros(5, 4, dtype=dtype), vectors, vectors, torch.tensor([1, -1, 4]), row + 1,
            True,
        ),
        "decode_attention": (*context, 0.3, 4),
        "append_kv_": (tokens, tokens, *pages, torch.tensor([[0], [1], [2]]).int(), places, None),
        "sample_tokens": (
            torch.randn(3, 9, dtype=half), IDS, ROWS, torch.tensor([0.0, 1.0, 0.5]),
            torch.tensor([1.0, 0.9, 1.0]), torch.tensor([0, 3, 2]), torch.tensor([-1, -1, 4]),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", samples(torch.float32))
def test_opcheck(name, dtype):
    opcheck(getattr(operators, name.split()[0]).default, samples(dtype)[name])


@pytest.mark.parametrize("name", ["info_nce_loss", "info_nce_loss with ids"])
def test_a_scale_that_needs_no_gradient_gets_none(name):
    arguments = list(samples(torch.float32)[name])
    arguments[-4] = True  # gradients, need_target, need_scale, backend
    with_scale = operators.info_nce_loss(*arguments)
    arguments[-2] = False
    without = operators.info_nce_loss(*arguments)
    assert with_scale[-1].numel() == 1 and without[-1].numel() == 0
    for one, other in zip(with_scale[:-1], without[:-1]):
        assert torch.equal(one, other)


COMPILED = {
    "info_nce": lambda q, t: kernels.info_nce(q, t, scale=20.0),
    "info_nce rows": lambda q, t: kernels.info_nce(
        q, t, directions=("q2t", "q2q"), reduction="none"
    ).sum(),
    "dual_info_nce": lambda q, t: kernels.dual_info_nce((q, t), (t, q)).loss,
    "gather_hidden": lambda q, t: kernels.gather_hidden(
        q + t, torch.tensor([1, 2, 1, 2, 2]), 1, cu_seqlens=torch.tensor([0, 2, 5])
    ).vectors.sum(),
    "linear_cross_entropy": lambda q, t: kernels.linear_cross_entropy(q, t, FIVE),
    "linear_logprob": lambda q, t: torch.stack(
        kernels.linear_logprob(q, t, FIVE, return_entropy=True)
    ).sum(),
    "grpo_loss": lambda q, t: (
        kernels.grpo_loss(q, t, FIVE, FIVE.float(), mask=FIVE > 0, normalizer=5.0).loss
    ),
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


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compile_of_decoding(backend):
    """Attention, the page writes before it and the sampler, in one graph without breaks."""
    torch._dynamo.reset()
    context = make([0, -1, 0], [5], [3, 9, 1], size=8, group=2, page_length=4)
    rows = torch.arange(3, dtype=torch.int32)

    def step(query, key_pages, value_pages, *rest):
        tables, lengths = rest[-2], rest[-1]
        kernels.append_kv(
            query[:, :2], query[:, 2:], key_pages, value_pages, tables, lengths - 1, backend=backend
        )
        found = kernels.decode_attention(query, key_pages, value_pages, *rest, backend=backend)
        temperature = torch.tensor([0.0, 1.0, 0.7])
        return found, *kernels.sample_tokens(
            found.flatten(1), rows, rows, temperature=temperature, top_p=0.9, backend=backend
        )

    pages = [[page.clone() for page in context[1:3]] for _ in range(2)]
    eager = step(context.query, *pages[0], *context[3:])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    again = compiled(context.query, *pages[1], *context[3:])
    assert all(torch.equal(one, other) for one, other in zip(eager, again))
    for one, other in zip(*pages):
        assert torch.equal(one.nan_to_num(9.0), other.nan_to_num(9.0))


def test_shapes_beyond_32_bits_without_data():
    """2^32 logits: shapes, dtypes and gradients, and nothing is computed."""
    query, target = (
        torch.empty(2**16, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for _ in range(2)
    )
    loss = kernels.info_nce(query, target)
    grads = torch.autograd.grad(loss, (query, target))
    assert loss.shape == () and [grad.shape for grad in grads] == [query.shape, target.shape]
    ids = torch.empty(2**16, dtype=torch.long, device="meta")
    loss = kernels.linear_cross_entropy(query, target, ids)
    grads = torch.autograd.grad(loss, (query, target))
    assert loss.dtype == torch.float32 and [grad.dtype for grad in grads] == [torch.bfloat16] * 2


def test_function_transforms_are_right_or_refused():
    query, target = unit(4, 8), unit(4, 8)
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda q: kernels.info_nce(q, target))(query)
    with pytest.raises(RuntimeError, match="info_nce has no forward-mode derivative"):
        torch.func.jvp(lambda q: kernels.info_nce(q, target), (query,), (query,))
    with pytest.raises(RuntimeError, match="linear_cross_entropy has no forward-mode derivative"):
        torch.func.jvp(
            lambda q: kernels.linear_cross_entropy(q, q, ROWS.new_ones(4)), (query,), (query,)
        )
    batched = torch.func.vmap(lambda q: kernels.info_nce(q, target))(torch.stack([query, target]))
    alone = [kernels.info_nce(q, target) for q in (query, target)]
    assert torch.allclose(batched, torch.stack(alone))


def test_errors_name_the_argument():
    logits, number = torch.randn(3, 5), torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="excluded holds 5"):
        operators.row_pools(logits, number, torch.tensor([0, 5, 1]), None, None, False)
    with pytest.raises(RuntimeError, match="go together"):
        operators.row_pools(logits, number, ROWS, IDS, None, False)
    with pytest.raises(RuntimeError, match="logits must be contiguous"):
        operators.row_pools(logits.T, number, torch.arange(5), None, None, False)
    with pytest.raises(RuntimeError, match="group_size 4 does not divide"):
        operators.group_reward(*[torch.randn(6, 6)] * 2, *[FLAGS] * 4, number, 4, 0, 0)
    with pytest.raises(RuntimeError, match="kind is 5"):
        operators.group_reward(*[torch.randn(6, 6)] * 2, *[FLAGS] * 4, number, 2, 0, 5)
    with pytest.raises(RuntimeError, match="outside the 3 rows of hidden"):
        operators.gather_hidden(
            torch.randn(3, 2), IDS, torch.tensor([0]), torch.tensor([4]), 4, True, True
        )


def test_exp_is_accurate_over_its_whole_range():
    """Softmaxes have their own exp: 2e-7 off down to where float32 ends, then exactly 0."""
    x = torch.cat([-torch.linspace(0, 87.2, 4001), torch.tensor([-87.4, -1e4, -3e38])])
    logits = x[None].clone()
    one = torch.ones(1)
    # the excluded first entry becomes the label's gradient, 0
    zero = torch.zeros(1)
    operators.softmax_gradient_(
        logits, torch.tensor(1.0), torch.tensor([0]), None, None, zero, one, zero, None, None, None
    )
    got, truth = logits[0, 1:].double(), x[1:].double().exp()
    normal = x[1:] > -87.3
    assert ((got - truth).abs() / truth)[normal].max() < 2e-7
    assert (got[~normal] == 0).all() and logits[0, 0] == 0


def test_softmaxes_are_bitwise_the_same_on_any_number_of_threads():
    logits, number = torch.randn(200, 1003), torch.tensor(7.0)
    vectors, others = torch.randn(200, 70).bfloat16(), torch.randn(1003, 70).bfloat16()
    excluded, threads = torch.arange(200), torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            best, total, _ = operators.row_pools(logits, number, excluded, None, None, False)
            columns = operators.column_pools(logits, number, excluded, None, None)
            grad = logits.clone()
            zero = torch.zeros(200)
            operators.softmax_gradient_(
                grad, number, excluded, None, None, best, 1 / total, zero, None, None, None
            )
            fused = operators.bf16_pools(vectors, others, number, excluded, None, None, True, True)
            runs.append((best, total, grad, *columns, *fused))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for run in runs for one, other in zip(runs[0], run))
