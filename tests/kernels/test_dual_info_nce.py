"""dual_info_nce: both embedding types, what comes with them, and what both functions refuse."""

import pytest
import torch
from contrastive_values import ALL_DIRECTIONS, relative, value_and_grad, vectors

from umer1_kernels import dual_info_nce, info_nce


@pytest.mark.parametrize("align", [0.0, 0.3])
def test_dual_is_the_sum_of_its_parts(backend, align):
    gen, disc = (vectors(6, 5), vectors(9, 5)), (vectors(6, 5), vectors(9, 5))
    same = {
        "scale": 9.0,
        "labels": torch.tensor([0, 3, 2, 8, -100, 5]),
        "row_weight": torch.arange(6.0),
    }
    result = dual_info_nce(gen, disc, align=align, backend=backend, **same)
    parts = [info_nce(*pair, backend="reference", **same) for pair in (gen, disc)]
    crossed = [
        info_nce(*pair, backend="reference", **same)
        for pair in ((gen[0], disc[1]), (disc[0], gen[1]))
    ]
    truth = sum(parts) + align * sum(crossed) / 2
    for one, other in zip(
        value_and_grad(result.loss, *gen, *disc), value_and_grad(truth, *gen, *disc)
    ):
        assert relative(one, other) < 1e-11
    assert result.gen.item() == pytest.approx(parts[0].item())
    assert result.align.item() == pytest.approx(sum(crossed).item() / 2 if align else 0.0)


def test_dual_metrics(backend):
    gen, disc = (vectors(6, 5), vectors(9, 5)), (vectors(6, 3), vectors(9, 3))
    metrics = dual_info_nce(gen, disc, backend=backend).metrics
    for name, (query, target) in {"gen": gen, "disc": disc}.items():
        cosine = (query @ target.T).detach()
        own = torch.eye(6, 9, dtype=torch.bool)
        hit = (cosine.argmax(1) == torch.arange(6)).double().mean()
        assert metrics[f"{name}_hit"].item() == pytest.approx(hit.item())
        assert metrics[f"{name}_positive_cosine"].item() == pytest.approx(
            cosine[own].mean().item(), abs=1e-6
        )
        assert metrics[f"{name}_negative_cosine"].item() == pytest.approx(
            cosine[~own].mean().item(), abs=1e-6
        )
    assert not any(metric.requires_grad for metric in metrics.values())


def test_a_tie_is_no_hit(backend):
    same = torch.ones(3, 4) / 2
    assert (
        dual_info_nce((same, same), (same, same), backend=backend).metrics["gen_hit"].item() == 0.0
    )


@pytest.mark.parametrize("directions", ALL_DIRECTIONS, ids="+".join)
def test_targets_without_a_gradient(backend, directions):
    """A memory of targets: the queries' gradient is the same, and nothing else is made."""
    query, target = vectors(5, 6), vectors(5, 6)
    options = {"directions": directions, "backend": backend}
    (wanted,) = torch.autograd.grad(info_nce(query, target, **options), query)
    (grad,) = torch.autograd.grad(info_nce(query, target.detach(), **options), query)
    assert relative(grad, wanted) < 1e-12


BAD = {
    "query": lambda q, t: info_nce(q[0], t),
    "target": lambda q, t: info_nce(q, t[:, :2]),
    "scale": lambda q, t: info_nce(q, t, scale=torch.ones(2)),
    "directions": lambda q, t: info_nce(q, t, directions="q2t"),
    "directions is": lambda q, t: info_nce(q, t, directions=("q2t", "q2t")),
    "partition": lambda q, t: info_nce(q, t, partition="both"),
    "reduction": lambda q, t: info_nce(q, t, reduction="avg"),
    "query_ids and target_ids": lambda q, t: info_nce(q, t, query_ids=torch.arange(3)),
    "target_ids": lambda q, t: info_nce(
        q, t, query_ids=torch.arange(3), target_ids=torch.arange(3)
    ),
    "labels has": lambda q, t: info_nce(q, t, labels=torch.arange(2)),
    "labels holds 9": lambda q, t: info_nce(q, t, labels=torch.tensor([0, 1, 9])),
    "label_offset 3": lambda q, t: info_nce(q, t, label_offset=3),
    "row_weight": lambda q, t: info_nce(q, t, row_weight=torch.ones(2)),
    "neither may be empty": lambda q, t: info_nce(q[:0], t),
    "backend": lambda q, t: info_nce(q, t, backend="fast"),
    "gen must be a pair": lambda q, t: dual_info_nce(q, (q, t)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message](torch.randn(3, 4), torch.randn(5, 4))
