"""On a GPU: small info_nce and dual_info_nce in our own kernel against the reference in float64."""

import pytest
import torch
from built import needs_cuda_kernels
from cuda_dual import GRADIENT_ERROR, NAMES, check, engines, error, fits, native, truth, vectors

import umer1_kernels as kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    needs_cuda_kernels,
]
SHAPES = {
    "one pair": (1, 1, 8),
    "one target each": (1, 5, 8),
    "a tile and a row": (129, 130, 72),
    "hard negatives": (129, 700, 896),
    "most targets": (129, 1408, 40),
    "the released batch": (256, 256, 1536),
    "odd": (777, 801, 1160),
    "headline": (1024, 1024, 1536),
    "wide": (1024, 1024, 3584),
    "largest": (1408, 1408, 1536),
}


@pytest.mark.parametrize("engine", engines(), ids=["mma", "wgmma"][: len(engines())])
@pytest.mark.parametrize("name", SHAPES)
def test_against_float64(poisoned_memory, name, engine):
    count, targets, dim = SHAPES[name]
    if not fits(count, targets, 2):
        pytest.skip("this GPU keeps fewer tiles of logits")
    gen, disc = vectors(count, targets, dim)
    check(native(gen, disc, engine=engine), truth(gen, disc))


@pytest.mark.parametrize("engine", engines(), ids=["mma", "wgmma"][: len(engines())])
@pytest.mark.parametrize("shape", [(5, 7, 16), (300, 500, 200), (1024, 1024, 896)], ids=str)
def test_crossed_pairs(poisoned_memory, shape, engine):
    if not fits(*shape[:2], 4):
        pytest.skip("this GPU keeps fewer tiles of logits")
    gen, disc = vectors(*shape)
    check(native(gen, disc, engine=engine, align=0.3), truth(gen, disc, align=0.3))


def test_both_engines_agree():
    if len(engines()) < 2:
        pytest.skip("wgmma is for Hopper")
    gen, disc = vectors(400, 400, 712)
    one, other = (native(gen, disc, engine=engine, align=0.2) for engine in engines())
    for mine, theirs in zip((*one[:6], *one[7:]), (*other[:6], *other[7:])):
        assert error(mine, theirs.double()) <= 3e-3


OPTIONS = {
    "q2t": {"directions": ("q2t",)},
    "t2q": {"directions": ("t2q",)},
    "t2q first": {"directions": ("t2q", "q2t")},
    "joint": {"partition": "joint"},
    "sum": {"reduction": "sum"},
    "rows": {"reduction": "none"},
    "offset": {"label_offset": 7},
    "scale 200": {"scale": 200.0},
    "negative scale": {"scale": -20.0},
}


@pytest.mark.parametrize("align", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(poisoned_memory, name, align):
    """The public function, with every loss's own upstream gradient, ids and weights."""
    gen, disc = vectors(140, 180, 48)
    ids = torch.arange(180, device="cuda") % 29
    options = {"scale": 50.0, **OPTIONS[name], "align": align, "target_ids": ids}
    options |= {"query_ids": ids[20:160], "row_weight": torch.arange(140.0, device="cuda") % 3}
    scale = torch.tensor(options.pop("scale"), device="cuda", requires_grad=True)
    leaves = [side.requires_grad_() for side in (*gen, *disc)]
    got = kernels.dual_info_nce(leaves[:2], leaves[2:], scale=scale, backend="cuda", **options)
    upstream = {"loss": 1.0, "gen": -2.0, "disc": 0.5, "align": 3.0}
    if options.get("reduction") == "none":
        steps = torch.linspace(1, 2, 140, device="cuda")
        upstream = {key: value * steps for key, value in upstream.items()}
    whole = sum((getattr(got, key) * factor).sum() for key, factor in upstream.items())
    grads = torch.autograd.grad(whole, [*leaves, scale])
    wanted, true_grads = truth(gen, disc, upstream=upstream, scale=scale.detach(), **options)
    for key in NAMES:
        torch.testing.assert_close(
            getattr(got, key).double(), getattr(wanted, key), rtol=1e-4, atol=1e-4
        )
    assert all(error(one, other) <= 6e-3 for one, other in zip(grads, true_grads))


@pytest.mark.parametrize("label_offset", [0, 3])
def test_labels(label_offset):
    """Shared targets, ignored rows; a NaN in an ignored query changes no loss."""
    gen, disc = vectors(140, 180, 48)
    labels = torch.arange(140, device="cuda") // 2
    labels[::7] = -100
    options = {"labels": labels, "label_offset": label_offset, "directions": ("q2t",)}
    leaves = [side.requires_grad_() for side in (*gen, *disc)]
    got = kernels.dual_info_nce(leaves[:2], leaves[2:], backend="cuda", **options)
    grads = torch.autograd.grad(got.loss, leaves)
    wanted, true_grads = truth(gen, disc, **options)
    torch.testing.assert_close(got.loss.double(), wanted.loss, rtol=1e-5, atol=1e-5)
    assert all(error(one, other) <= GRADIENT_ERROR for one, other in zip(grads, true_grads))
    poisoned = gen[0].detach().clone()
    poisoned[7] = float("nan")
    again = kernels.dual_info_nce((poisoned, gen[1]), disc, backend="cuda", **options)
    assert torch.equal(again.loss, got.loss)


def test_logits_to_1e4_and_no_scale():
    gen, disc = vectors(300, 400, 64)
    large = [tuple(14 * side for side in pair) for pair in (gen, disc)]
    check(native(*large), truth(*large), 2e-2)
    result, wanted = native(gen, disc, scale=0.0), truth(gen, disc, scale=0.0)
    assert all((grad == 0).all() for grad in result[7:])
    torch.testing.assert_close(result[0].double(), wanted[0].loss, rtol=1e-6, atol=0)


def test_nothing_counts_and_nan_is_not_hidden():
    gen, disc = vectors(140, 180, 48)
    leaves = [side.requires_grad_() for side in (*gen, *disc)]
    zero = kernels.dual_info_nce(
        leaves[:2], leaves[2:], row_weight=torch.zeros(140, device="cuda"), backend="cuda"
    )
    assert zero.loss == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(zero.loss, leaves))
    broken = gen[1].detach().clone()
    broken[170, 3] = float("nan")
    result = kernels.dual_info_nce((gen[0], broken), disc, backend="cuda")
    assert result.gen.isnan() and result.loss.isnan() and result.disc.isfinite()
