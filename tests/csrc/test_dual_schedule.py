"""The small dual InfoNCE kernel's phases on a CPU against float64: its tiles, its barriers, its index maps.

The model (dual_info_nce.cpp, dual_block.h, tensor_core_model.h) runs the functions that the CUDA
kernel is made of, block by block in a shuffled order, with the tensor cores' instructions as the PTX
manual describes them.
"""

import pytest
import torch
import torch.nn.functional as F
from dual_emulation import GRADIENTS, LOGIT_GRADIENT, LOSS, Emulation

from umer1_kernels import reference
from umer1_kernels.backends.cuda import dual_limits

GRADIENT_ERROR = 4e-3  # of bfloat16, relative Frobenius: the library's promise
A100 = {"multiprocessors": 108, "shared_bytes": 166912}
ENGINES = [(False, False), (False, True), (True, False), (True, True)]


@pytest.fixture(scope="module")
def emulation(compiled) -> Emulation:
    return Emulation(compiled("dual_info_nce"))


def vectors(count, targets, dim, noise=0.6):
    """Queries and targets of both sides: clustered, positives near their queries."""
    rank = min(16, dim)
    sides = []
    for _ in range(2):
        base = torch.randn(max(count, targets), rank) @ torch.randn(rank, dim)
        near = lambda n, base=base: base[:n] + noise * base.std() * torch.randn(n, dim)
        sides += [F.normalize(near(n), dim=1).bfloat16() for n in (count, targets)]
    return sides


def call(emulation, vectors, *, make=GRADIENTS, scale=50.0, labels=None, label_offset=0, ids=(None, None),
         weight=None, directions=("q2t", "t2q"), joint=False, reduction="mean", align=0.0):  # fmt: skip
    fixed = not isinstance(scale, torch.Tensor)
    return emulation.small_dual_info_nce(
        *(*vectors, None, None)[:4], None if fixed else scale, scale if fixed else 0.0, labels,
        label_offset, *ids, weight, "q2t" in directions, "t2q" in directions,
        directions[0] == "t2q", joint, ("mean", "sum", "none").index(reduction), bool(align),
        align, make, 0,
    )  # fmt: skip


def truth(vectors, *, scale=50.0, labels=None, label_offset=0, ids=(None, None), weight=None,
          directions=("q2t", "t2q"), joint=False, reduction="mean", align=0.0):  # fmt: skip
    """(losses [4], metrics, gradients of the vectors and the scale), in float64 by autograd."""
    exact = [side.double().requires_grad_() for side in vectors]
    scale = torch.as_tensor(scale).double().requires_grad_()
    options = {
        "scale": scale, "labels": labels, "label_offset": label_offset, "query_ids": ids[0],
        "target_ids": ids[1], "row_weight": weight, "directions": directions,
        "partition": "joint" if joint else "per_direction", "reduction": reduction,
    }  # fmt: skip
    if len(vectors) == 2:
        losses, metrics = [reference.info_nce(*exact, **options)] * 2, None
    else:
        losses = reference.dual_info_nce(exact[:2], exact[2:], align=align, **options)
        losses, metrics = list(losses[:4]), torch.stack(list(losses.metrics.values()))
    grads = torch.autograd.grad(losses[0].sum(), [*exact, scale], materialize_grads=True)
    return [loss.detach() for loss in losses], metrics, grads


def error(got, wanted):
    return ((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


def check(result, wanted, count, gradient_error=GRADIENT_ERROR, loss_error=2e-5):
    losses, metrics, grads = wanted
    for got, expected in zip(result, losses):
        torch.testing.assert_close(got.double(), expected, rtol=loss_error, atol=loss_error)
    if metrics is not None:
        torch.testing.assert_close(
            result[4].flatten().double(), metrics.double(), rtol=1e-5, atol=1e-5
        )
    floor = max(grad.norm() for grad in grads[:-1])
    for got, expected in zip(result[7 : 7 + len(grads) - 1], grads):
        assert got.isfinite().all()
        assert floor < 1e-12 or error(got, expected) <= gradient_error
    torch.testing.assert_close(
        result[5][0].double(), grads[-1], rtol=1e-4, atol=1e-5 * float(floor)
    )


SHAPES = {
    "one pair": (1, 1, 8),
    "one target each": (1, 5, 8),
    "a tile and a row": (129, 130, 72),
    "two by three tiles": (200, 300, 136),
    "hard negatives": (129, 700, 64),
    "most targets": (129, 1408, 40),
    "a real dimension": (129, 129, 1536),
}


@pytest.mark.parametrize("warpgroups, late_products", ENGINES)
@pytest.mark.parametrize("name", SHAPES)
def test_against_float64(emulation, name, warpgroups, late_products):
    count, targets, dim = SHAPES[name]
    given = vectors(count, targets, dim)
    here = emulation.on(warpgroups=warpgroups, late_products=late_products)
    check(call(here, given), truth(given), count)


@pytest.mark.parametrize("warpgroups", [False, True], ids=["mma", "wgmma"])
@pytest.mark.parametrize("align", [0.3, -2.0])
def test_crossed_pairs_on_few_multiprocessors(emulation, align, warpgroups):
    """Two tiles a block, and tiles of gradients one after the other."""
    given = vectors(200, 300, 200)
    here = emulation.on(warpgroups=warpgroups, late_products=True, multiprocessors=13)
    check(call(here, given, align=align), truth(given, align=align), 200)


@pytest.mark.parametrize("shape", [(200, 300, 200), (300, 200, 40)], ids=str)
def test_on_an_a100(emulation, shape):
    """Less shared memory: fewer slots, small tiles of gradients."""
    count, targets, dim = shape
    given = vectors(min(count, targets), targets, dim)
    check(call(emulation.on(**A100), given), truth(given), count)


OPTIONS = {
    "q2t": {"directions": ("q2t",)},
    "t2q": {"directions": ("t2q",)},
    "t2q first": {"directions": ("t2q", "q2t")},
    "joint": {"joint": True},
    "sum": {"reduction": "sum"},
    "offset": {"label_offset": 7},
    "weights": {"weight": torch.arange(140.0) % 3},
    "scale 1": {"scale": 1.0},
    "scale 200": {"scale": 200.0},
    "negative scale": {"scale": -20.0},
    "scale on the device": {"scale": torch.tensor(33.0)},
    "labels": {"directions": ("q2t",), "labels": torch.arange(140) * 5 % 170},
    "ignored": {"directions": ("q2t",), "labels": torch.where(torch.arange(140) % 4 > 0, torch.arange(140) + 2, -100)},
    "labels and offset": {"directions": ("q2t",), "labels": torch.arange(140) // 2, "label_offset": 3},
}  # fmt: skip
IDS = {
    "few": torch.arange(180) % 9,
    "none twice": torch.arange(180) + 2**40,
    "all the same": torch.zeros(180, dtype=torch.long),
}


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(emulation, name, sides):
    given = vectors(140, 180, 48)[: 2 * sides]
    options = OPTIONS[name]
    loss_error = 2e-7 * max(100.0, abs(float(options.get("scale", 50.0))))
    result = call(emulation.on(warpgroups=sides == 1), given, **options)
    check(result, truth(given, **options), 140, GRADIENT_ERROR + 3e-5 * 50, loss_error)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", IDS)
def test_ids(emulation, name, joint):
    given = vectors(140, 180, 48)
    options = {"ids": (IDS[name][20:160], IDS[name]), "joint": joint, "align": 0.5}
    check(call(emulation, given, **options), truth(given, **options), 140)


def test_logits_to_1e4(emulation):
    """Vectors of length 14: no overflow, and exponentials lose no more than the logits' rounding."""
    given = [14 * side for side in vectors(140, 180, 48)]
    check(call(emulation, given), truth(given), 140, 2e-2, 1e-5)


def test_a_scale_of_0(emulation):
    given = vectors(140, 180, 48)
    result, wanted = call(emulation, given, scale=0.0), truth(given, scale=0.0)
    assert all((grad == 0).all() for grad in result[7:])
    torch.testing.assert_close(result[0].double(), wanted[0][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(result[5][0].double(), wanted[2][-1], rtol=1e-4, atol=1e-6)


def test_nothing_counts(emulation):
    given = vectors(140, 180, 48)
    for options in (
        {"weight": torch.zeros(140)},
        {"labels": torch.full((140,), -100), "directions": ("q2t",)},
    ):
        result = call(emulation, given, **options)
        assert all(loss == 0 for loss in result[:4])
        assert all((value == 0).all() for value in result[4:6])
        assert all((grad == 0).all() for grad in result[7:])


def test_an_ignored_row_changes_no_loss_whatever_it_holds(emulation):
    given = vectors(140, 180, 48)
    labels = torch.arange(140)
    labels[[3, 130]] = -100
    options = {"labels": labels, "directions": ("q2t",)}
    clean = call(emulation, given, **options)
    given[0][3] = float("nan")
    given[2][130] = float("inf")
    poisoned = call(emulation, given, **options)
    assert all(torch.equal(one, other) for one, other in zip(clean[:4], poisoned[:4]))
    assert torch.equal(clean[5], poisoned[5])
    others = torch.arange(140) != 3
    assert torch.equal(clean[7][others], poisoned[7][others]) and (poisoned[7][3] == 0).all()


def test_nan_is_not_hidden(emulation):
    given = vectors(140, 180, 48)
    given[1][170, 0] = float("nan")
    result = call(emulation, given)
    assert result[0].isnan() and result[1].isnan() and result[2].isfinite()
    labels = torch.arange(140)
    labels[5] = 180  # beyond the targets: the caller answers for it
    assert call(emulation, vectors(140, 180, 48), labels=labels, directions=("q2t",))[0].isnan()


def test_a_tie_is_no_hit(emulation):
    same = torch.full((130, 16), 0.25, dtype=torch.bfloat16)
    assert call(emulation, [same] * 4)[4][0, 0] == 0


def test_row_losses(emulation):
    given = vectors(140, 180, 48)
    options = {"reduction": "none", "align": 0.4, "weight": torch.arange(140.0) % 5}
    result = call(emulation, given, make=LOSS, **options)
    for got, expected in zip(result, truth(given, **options)[0]):
        assert got.shape == (140,)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("upstream", [(1.0, None, None, None), (None, 2.0, None, None),
                                      (0.5, None, -1.0, 4.0), (None, None, None, 3.0), (0.0, 0.0, 0.0, 0.0)], ids=str)  # fmt: skip
def test_upstream_gradients_of_every_loss(emulation, upstream):
    given, align = vectors(140, 180, 48), 0.3
    result = call(emulation, given, make=LOGIT_GRADIENT, align=align)
    grads = [None if factor is None else torch.tensor(factor) for factor in upstream]
    got = emulation.small_dual_info_nce_gradient(
        *given, result[6], result[5], *grads, True, align, 15, 0
    )
    exact = [side.double().requires_grad_() for side in given]
    scale = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)
    losses = reference.dual_info_nce(exact[:2], exact[2:], align=align, scale=scale)
    whole = sum(loss * factor for loss, factor in zip(losses, upstream) if factor is not None)
    wanted = torch.autograd.grad(whole, [*exact, scale], materialize_grads=True)
    for one, other in zip(got, wanted):
        assert error(one, other) <= GRADIENT_ERROR if other.norm() > 0 else (one == 0).all()


def test_gradients_that_are_not_needed_are_not_made(emulation):
    given = vectors(140, 180, 48)
    result = call(emulation, given, make=LOGIT_GRADIENT)
    one = torch.tensor(1.0)
    arguments = (*given, result[6], result[5], one, None, None, None, False, 0.0)
    whole = emulation.small_dual_info_nce_gradient(*arguments, 15, 0)
    for needed in (1, 2, 6, 8):
        some = emulation.small_dual_info_nce_gradient(*arguments, needed, 0)
        for k in range(4):
            assert torch.equal(some[k], whole[k]) if needed >> k & 1 else some[k].numel() == 0


def test_one_launch_or_two_blocks_in_any_order(emulation):
    """Bitwise the same: nothing depends on which block is first, and on how many there are."""
    given = vectors(200, 300, 200)
    whole = call(emulation, given, align=0.3)
    for changes in ({"seed": 5}, {"multiprocessors": 14, "seed": 1}, {"late_products": True}):
        other = call(emulation.on(**changes), given, align=0.3)
        assert all(torch.equal(one, two) for one, two in zip(whole, other))
    kept = call(emulation, given, make=LOGIT_GRADIENT, align=0.3)
    grads = emulation.small_dual_info_nce_gradient(
        *given, kept[6], kept[5], torch.tensor(1.0), None, None, None, True, 0.3, 15, 0
    )
    assert all(torch.equal(one, two) for one, two in zip(whole[7:], grads))
    assert torch.equal(whole[5][0], grads[4])


def test_what_fits(emulation):
    """The host's plan, and the same in Python, where the obstacle is put into words."""
    plan = lambda *shape, **options: emulation.plan(*shape, **options)
    dual = plan(1024, 1024, 1536, 2)
    assert dual["logit_tiles"] == 128 and dual["tiles_per_block"] == 1 and dual["large"]
    assert dual["blocks"] == 128 and dual["gradient_tiles"] == 128  # one round of 132
    assert plan(1408, 1408, 1536, 2)["tiles_per_block"] == 2
    assert plan(1024, 1024, 3584, 4)["tiles_per_block"] == 2
    assert plan(1408, 1408, 1536, 4)["blocks"] == 0
    assert not plan(256, 256, 1536, 2)["large"]
    assert plan(1408, 1408, 1536, 2, gradients=False)["blocks"] == 132
    small = emulation.on(**A100)
    assert small.plan(896, 896, 1536, 2)["tiles_per_block"] == 1
    assert not small.plan(896, 896, 1536, 2)["large"]
    assert small.plan(1024, 1024, 1536, 2)["blocks"] == 0
    assert emulation.on(shared_bytes=99 * 1024).plan(64, 64, 64, 1)["blocks"] == 0
    for device in (
        emulation,
        small,
        emulation.on(multiprocessors=60),
        emulation.on(shared_bytes=99 * 1024),
    ):
        room = dual_limits.capacity(device.multiprocessors, device.shared_bytes)
        for count in (1, 128, 129, 640, 1024, 1408):
            for pairs in (1, 2, 4):
                fits = dual_limits.tiles(count, count, pairs) <= room
                assert (device.plan(count, count, 512, pairs)["blocks"] > 0) == fits
