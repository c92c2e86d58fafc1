"""info_nce and dual_info_nce with backend="cuda": the Python side, with the model of the kernel as its operator.

No GPU is needed: `small_dual_info_nce` gets a CPU implementation, which only these tests have.
"""

import pytest
import torch
import torch.nn.functional as F
from dual_emulation import Emulation
from torch.library import opcheck

import umer1_kernels as kernels
from umer1_kernels import backends, reference, value_and_grad
from umer1_kernels.backends.cuda import dual_limits, limits

GRADIENT_ERROR = 4e-3
OPERATORS = ("small_dual_info_nce", "small_dual_info_nce_gradient")


@pytest.fixture(scope="module")
def calls(compiled):
    """The names of the operators called, in order; with a CPU implementation while tests run."""
    emulation, names = Emulation(compiled("dual_info_nce")), []
    library = torch.library.Library("umer1_kernels", "IMPL", "CPU")

    def run(name):
        def operator(*arguments):
            names.append(name)
            return getattr(emulation, name)(*arguments)

        return operator

    for name in OPERATORS:
        library.impl(name, run(name))
    yield names
    library._destroy()


@pytest.fixture(autouse=True)
def native(calls, monkeypatch):
    """CPU tensors count as a GPU's."""
    obstacle = lambda backend, function, tensors, arguments: dual_limits.beyond(tensors, arguments)
    monkeypatch.setattr(backends, "_obstacle", obstacle)
    monkeypatch.setattr(value_and_grad, "_on_cuda", lambda value: isinstance(value, torch.Tensor))
    calls.clear()


def vectors(count, dim):
    return F.normalize(torch.randn(count, dim), dim=1).bfloat16().requires_grad_()


def pairs(count=21, targets=34, dim=16):
    return [(vectors(count, dim), vectors(targets, dim)) for _ in range(2)]


def exact(*tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def check(got, wanted):
    for one, other in zip(got, wanted):
        assert one.isfinite().all()
        error = (one.double() - other).norm() / other.norm().clamp_min(1e-12)
        assert error <= GRADIENT_ERROR or other.norm() < 1e-9


@pytest.mark.parametrize("scale", [20.0, torch.tensor(20.0), torch.tensor([20.0]).bfloat16(),
                                   torch.tensor(20.0).double()], ids=["float", "scalar", "bfloat16", "float64"])  # fmt: skip
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_info_nce(scale, reduction):
    (query, target), _ = pairs()
    ids = torch.arange(34) % 11
    options = {"query_ids": ids[:21].int(), "target_ids": ids, "row_weight": torch.arange(21.0),
               "reduction": reduction, "partition": "joint"}  # fmt: skip
    learnable = isinstance(scale, torch.Tensor)
    mine = scale.clone().requires_grad_() if learnable else scale
    loss = kernels.info_nce(query, target, scale=mine, backend="cuda", **options)
    sides = exact(query, target)
    true_scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    truth = reference.info_nce(*sides, scale=true_scale, **options)
    assert loss.dtype == torch.float32 and loss.shape == truth.shape
    torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=1e-5)
    upstream = torch.linspace(-1, 2, truth.numel()).reshape(truth.shape)
    inputs = (query, target, mine) if learnable else (query, target)
    grads = torch.autograd.grad(loss, inputs, upstream)
    assert all(grad.dtype == x.dtype and grad.shape == x.shape for grad, x in zip(grads, inputs))
    wanted = torch.autograd.grad(truth, [*sides, true_scale], upstream.double())
    check([grad.reshape(value.shape) for grad, value in zip(grads, wanted)], wanted)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "chosen, align",
    [(name, align) for name in ("loss", "gen", "disc", "all") for align in (0.0, 0.3)]
    + [("align", 0.3)],
)
def test_every_loss_has_its_own_upstream_gradient(chosen, align, reduction):
    gen, disc = pairs()
    scale = torch.tensor(9.0, requires_grad=True)
    options = {"align": align, "reduction": reduction, "row_weight": torch.arange(21.0) % 4}
    result = kernels.dual_info_nce(gen, disc, scale=scale, backend="cuda", **options)
    sides = exact(*gen, *disc, scale)
    truth = reference.dual_info_nce(sides[:2], sides[2:4], scale=sides[4], **options)
    for name in ("loss", "gen", "disc", "align"):
        got, wanted = getattr(result, name), getattr(truth, name)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)

    def whole(found):
        if chosen != "all":
            return (getattr(found, chosen) * torch.linspace(1, 2, found.loss.numel())).sum()
        return (found.loss - 2 * found.gen + 0.5 * found.disc + 3 * found.align).sum()

    grads = torch.autograd.grad(whole(result), (*gen, *disc, scale), materialize_grads=True)
    check(grads, torch.autograd.grad(whole(truth), sides, materialize_grads=True))


def test_metrics():
    gen = vectors(6, 16), vectors(9, 16)
    disc = vectors(6, 24), vectors(9, 24)
    got = kernels.dual_info_nce(gen, disc, backend="cuda").metrics
    wanted = reference.dual_info_nce(gen, disc).metrics
    assert list(got) == list(wanted)
    for name, value in got.items():
        assert value.shape == () and not value.requires_grad
        torch.testing.assert_close(value, wanted[name].float(), rtol=1e-5, atol=1e-6)


def test_launches(calls):
    """One forward and one backward; one for both where only the loss is differentiated."""
    gen, disc = pairs()
    result = kernels.dual_info_nce(gen, disc, backend="cuda")
    assert calls == [OPERATORS[0]]
    torch.autograd.grad(result.loss, (*gen, *disc))
    assert calls == list(OPERATORS)
    calls.clear()
    kernels.dual_info_nce_value_and_grad(gen, disc, align=0.2, backend="cuda")
    kernels.info_nce_value_and_grad(*gen, backend="cuda")
    with torch.no_grad():
        kernels.info_nce(*gen, backend="cuda")
    assert calls == [OPERATORS[0]] * 3


@pytest.mark.parametrize("align", [0.0, 0.4])
def test_value_and_grad(align):
    gen, disc = pairs()
    scale = torch.tensor([7.0], dtype=torch.float64)
    with torch.inference_mode():
        got = kernels.dual_info_nce_value_and_grad(
            gen, disc, align=align, scale=scale, backend="cuda"
        )
    leaf = scale.clone().requires_grad_()
    result = kernels.dual_info_nce(gen, disc, align=align, scale=leaf, backend="cuda")
    grads = torch.autograd.grad(result.loss, (*gen, *disc, leaf))
    assert torch.equal(got.result.loss, result.loss.detach())
    for one, other in zip((*got.gen, *got.disc, got.scale), grads):
        assert one.dtype == other.dtype and torch.equal(one, other)
    alone = kernels.info_nce_value_and_grad(*gen, reduction="sum", backend="cuda")
    loss = kernels.info_nce(*gen, reduction="sum", backend="cuda")
    grads = torch.autograd.grad(loss, gen)
    assert torch.equal(alone.loss, loss) and alone.scale is None
    assert torch.equal(alone.query, grads[0]) and torch.equal(alone.target, grads[1])


def test_inputs_that_need_no_gradient_get_none():
    gen, disc = pairs()
    memory = gen[1].detach()
    loss = kernels.dual_info_nce((gen[0], memory), disc, backend="cuda").loss
    grads = torch.autograd.grad(loss, (gen[0], *disc))
    whole = torch.autograd.grad(kernels.dual_info_nce(gen, disc, backend="cuda").loss, gen)
    assert torch.equal(grads[0], whole[0]) and memory.grad is None


def test_a_second_backward_gives_the_same():
    (query, target), _ = pairs()
    for reduction in ("mean", "none"):
        loss = kernels.info_nce(query, target, reduction=reduction, backend="cuda").sum()
        one, other = (torch.autograd.grad(3.0 * loss, query, retain_graph=True) for _ in range(2))
        assert torch.equal(one[0], other[0])
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(loss, query, create_graph=True)


def test_an_upstream_gradient_is_not_rounded_to_bfloat16():
    (query, target), _ = pairs()
    (once,) = torch.autograd.grad(kernels.info_nce(query, target, backend="cuda"), query)
    loss = kernels.info_nce(query, target, backend="cuda") / 3
    (third,) = torch.autograd.grad(loss, query)
    ratio = (third.double() * once.double()).sum() / once.double().square().sum()
    assert ratio.item() == pytest.approx(1 / 3, rel=1e-3)


def test_forward_mode_is_refused():
    query = vectors(4, 8).detach()
    with pytest.raises(RuntimeError, match="info_nce has no forward-mode derivative"):
        torch.func.jvp(lambda q: kernels.info_nce(q, q, backend="cuda"), (query,), (query,))


def test_operators_are_well_formed():
    gen, disc = pairs(3, 4, 8)
    ids = torch.tensor([4, 4, 6]), torch.tensor([4, 6, 4, 1])
    options = (None, 0.0, None, 0, *ids, torch.ones(3), True, True, False, False)
    scale = torch.tensor(2.0, requires_grad=True)
    operators = torch.ops.umer1_kernels
    operator = operators.small_dual_info_nce.default
    for reduction, make in ((0, 1), (1, 1), (2, 0)):
        arguments = (*gen, *disc, scale, *options[1:], reduction, True, 0.5, make, 0)
        opcheck(operator, arguments)
    detached = [side.detach() for side in (*gen, *disc)]
    opcheck(operator, (*detached, *options, 0, False, 0.0, 2, 0))
    opcheck(operator, (*detached[:2], None, None, *options, 0, False, 0.0, 0, 0))
    one = torch.tensor(1.0)
    kept = operator(*detached, *options, 0, False, 0.0, 1, 0)
    upstream = (one, None, one, None)
    opcheck(
        operators.small_dual_info_nce_gradient.default,
        (*detached, kept[6], kept[5], *upstream, False, 0.0, 13, 0),
    )


COMPILED = {
    "info_nce": lambda gen, disc, scale: kernels.info_nce(*gen, scale=scale, backend="cuda"),
    "rows": lambda gen, disc, scale: kernels.info_nce(
        *gen, scale=scale, reduction="none", backend="cuda"
    ).sum(),
    "dual": lambda gen, disc, scale: (
        kernels.dual_info_nce(gen, disc, scale=scale, align=0.3, backend="cuda").loss
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compile_without_graph_breaks_equals_eager_bitwise(name):
    torch._dynamo.reset()
    gen, disc = pairs(5, 7, 8)
    scale = torch.tensor(11.0, requires_grad=True)
    inputs = (*gen, *disc, scale) if name == "dual" else (*gen, scale)
    function = torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager")
    eager, compiled = COMPILED[name](gen, disc, scale), function(gen, disc, scale)
    assert torch.equal(eager, compiled)
    grads = [torch.autograd.grad(loss, inputs) for loss in (eager, compiled)]
    assert all(torch.equal(one, other) for one, other in zip(*grads))


def test_explain():
    gen, disc = pairs()
    explain = lambda function, *inputs, **options: kernels.explain(
        function, *inputs, backend="cuda", **options
    )
    found = explain(kernels.dual_info_nce, gen, disc)
    assert found.backend == "cuda" and found.plan.startswith(
        "a launch forward, a launch backward: 3"
    )
    assert explain(kernels.info_nce_value_and_grad, *gen).plan.startswith("one launch for losses")
    rows = explain(kernels.info_nce, *gen, reduction="none")
    assert rows.plan.startswith("forward only, then one launch") and ": 4 products" in rows.plan
    with torch.no_grad():
        assert explain(kernels.info_nce, *gen).plan.startswith("one launch, forward only: 1")


REFUSED = {
    "up to 1408 queries and targets, not 1409": ((3, 1409, 8), {}),
    "multiples of 8, not 12": ((3, 3, 12), {}),
    "not q2q": ((3, 3, 8), {"directions": ("q2t", "q2q")}),
    "labels with q2t alone": ((3, 3, 8), {"labels": torch.arange(3)}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_take_is_refused(why):
    (count, targets, dim), options = REFUSED[why]
    query, target = vectors(count, dim), vectors(targets, dim)
    for function in (kernels.info_nce, kernels.info_nce_value_and_grad):
        with pytest.raises(ValueError, match=f"'cuda' cannot run info_nce: its kernel .*{why}"):
            function(query, target, backend="cuda", **options)


def test_dtypes_and_devices_are_refused_in_words():
    query = torch.randn(3, 8)
    assert "it takes bfloat16, not torch.float32" in limits.obstacle(
        "info_nce", (query.to("meta").as_subclass(OnGpu),), {}
    )
    assert "the inputs are on cpu" in limits.obstacle("dual_info_nce", (query,) * 4, {})


class OnGpu(torch.Tensor):
    device = property(lambda self: torch.device("cuda"))
