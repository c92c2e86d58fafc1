"""What the tests of the small dual InfoNCE kernel share: vectors, the operator, the truth in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from umer1_kernels import reference
from umer1_kernels.backends.cuda import dual_limits

GRADIENT_ERROR = 4e-3  # relative Frobenius, of bfloat16: the library's promise
WARPS, WARPGROUPS = 1, 2  # engines: mma and wgmma
NAMES = ("loss", "gen", "disc", "align")


def engines():
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    return [WARPS, *[WARPGROUPS] * hopper]


def vectors(count, targets, dim, noise=0.6):
    """((query, target) of gen, of disc): clustered, positives near their queries."""
    rank = min(16, dim)
    normal = lambda *shape: torch.randn(*shape, device="cuda")

    def side():
        base = normal(max(count, targets), rank) @ normal(rank, dim)
        near = lambda n: base[:n] + noise * base.std() * normal(n, dim)
        return tuple(F.normalize(near(n), dim=1).bfloat16() for n in (count, targets))

    return [side(), side()]


def fits(count, targets, pairs):
    device = torch.cuda.get_device_properties(0)
    room = dual_limits.capacity(device.multi_processor_count, device.shared_memory_per_block_optin)
    return dual_limits.tiles(count, targets, pairs) <= room


def native(gen, disc, *, engine=0, make=2, scale=50.0, align=0.0):
    """The operator itself, both directions, mean."""
    return torch.ops.umer1_kernels.small_dual_info_nce(
        *gen, *disc, None, scale, None, 0, None, None, None, True, True, False, False, 0,
        bool(align), align, make, engine,
    )  # fmt: skip


def truth(gen, disc, *, upstream=None, **options):
    """(result, gradients of the vectors and of the scale) in float64; `upstream`: of NAMES."""
    exact = [side.double().requires_grad_() for side in (*gen, *disc)]
    scale = torch.as_tensor(options.pop("scale", 50.0), device="cuda").double().requires_grad_()
    result = reference.dual_info_nce(exact[:2], exact[2:], scale=scale, **options)
    upstream = upstream or {"loss": 1.0}
    whole = sum((getattr(result, name) * factor).sum() for name, factor in upstream.items())
    return result, torch.autograd.grad(whole, [*exact, scale], materialize_grads=True)


def error(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def check(result, wanted, allowed=GRADIENT_ERROR):
    losses, grads = wanted
    for got, name in zip(result, NAMES):
        torch.testing.assert_close(got.double(), getattr(losses, name), rtol=2e-5, atol=2e-5)
    metrics = torch.stack(list(losses.metrics.values())).double()
    torch.testing.assert_close(result[4].flatten().double(), metrics, rtol=1e-5, atol=1e-5)
    for got, expected in zip(result[7:], grads):
        assert got.isfinite().all()
        assert expected.norm() < 1e-12 or error(got, expected) <= allowed
    if grads[-1].abs() > 1e-9:
        assert error(result[5][0], grads[-1]) <= 2e-4
