"""One process of the distributed test: `python distributed_cases.py RANK WORLD STORE_FILE`.

Every process makes the whole batch from one seed, passes its own rows with `group=`, and compares
with what a single process gets from the whole batch.
"""

import os
import sys
import warnings

import torch
import torch.distributed as dist
import torch.nn.functional as F

from umer1_kernels import (
    distributed,
    dual_info_nce,
    dual_info_nce_value_and_grad,
    group_reward,
    info_nce,
    info_nce_value_and_grad,
)

ROWS, HARD = 3, 2  # per process: queries, and targets beyond their positives


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def mine(whole, rank, world):
    return whole.view(world, -1, *whole.shape[1:])[rank]


def same(name, got, expected):
    assert torch.allclose(got, expected, atol=1e-10), f"{name}: {got} is not {expected}"


def mean_over_processes(value):
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def contrastive(rank, world, backend, **options):
    """The mean loss and the averaged gradients are the single process's."""
    targets = ROWS + HARD
    query = unit(world * ROWS, 6).requires_grad_()
    target = unit(world * targets, 6).requires_grad_()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 4, (world * targets,))
    weight = torch.rand(world * ROWS)
    labels = torch.randint(0, targets, (world, ROWS))
    labels[0, 1] = -100
    shift = (torch.arange(world) * targets)[:, None]
    whole_labels = torch.where(labels == -100, -100, labels + shift).view(-1)
    query_ids = ids[whole_labels.clamp_min(0)]

    whole = info_nce(
        query, target, scale=scale, labels=whole_labels, query_ids=query_ids, target_ids=ids,
        row_weight=weight, backend="reference", **options,
    )  # fmt: skip
    expected = torch.autograd.grad(whole, (query, target, scale))

    own = [mine(x.detach(), rank, world).clone().requires_grad_() for x in (query, target)]
    own_scale = scale.detach().clone().requires_grad_()
    loss = info_nce(
        *own, scale=own_scale, labels=labels[rank], query_ids=mine(query_ids, rank, world),
        target_ids=mine(ids, rank, world), row_weight=mine(weight, rank, world),
        group=dist.group.WORLD, backend=backend, **options,
    )  # fmt: skip
    grads = torch.autograd.grad(loss, (*own, own_scale))
    same("loss", mean_over_processes(loss), whole.detach())
    same("query gradient", grads[0] / world, mine(expected[0], rank, world))
    same("target gradient", grads[1] / world, mine(expected[1], rank, world))
    same("scale gradient", mean_over_processes(grads[2]), expected[2])


def dual(rank, world, backend):
    gen, disc = ([unit(world * ROWS, 5).requires_grad_() for _ in range(2)] for _ in range(2))
    whole = dual_info_nce(gen, disc, align=0.5, backend="reference")
    expected = torch.autograd.grad(whole.loss, (*gen, *disc))
    own = [[mine(x.detach(), rank, world).requires_grad_() for x in pair] for pair in (gen, disc)]
    result = dual_info_nce(*own, align=0.5, group=dist.group.WORLD, backend=backend)
    for name in ("loss", "gen", "disc", "align"):
        same(name, mean_over_processes(getattr(result, name)), getattr(whole, name))
    for name, value in result.metrics.items():
        same(name, mean_over_processes(value).float(), whole.metrics[name].float())
    grads = torch.autograd.grad(result.loss, (*own[0], *own[1]))
    for got, truth in zip(grads, expected):
        same("gradient", got / world, mine(truth, rank, world))

    again = dual_info_nce_value_and_grad(*own, align=0.5, group=dist.group.WORLD, backend=backend)
    same("loss", again.result.loss, result.loss)
    for got, truth in zip((*again.gen, *again.disc), grads):
        same("dual_info_nce_value_and_grad", got, truth)


def value_and_grad(rank, world, backend):
    """Exactly what backward leaves in .grad, the scale's included."""
    query = mine(unit(world * ROWS, 6), rank, world).requires_grad_()
    target = mine(unit(world * (ROWS + HARD), 6), rank, world).requires_grad_()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    options = {"scale": scale, "group": dist.group.WORLD, "backend": backend, "reduction": "sum"}
    loss = info_nce(query, target, **options)
    loss.backward()
    with torch.no_grad():
        result = info_nce_value_and_grad(query, target, **options)
    same("loss", result.loss, loss)
    for got, leaf in ((result.query, query), (result.target, target), (result.scale, scale)):
        same("info_nce_value_and_grad", got, leaf.grad)


def gathered_rows(rank, world, supported):
    """Rows of any dtype in rank order; the backward sums in float32 and keeps this one's rows."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        whole, upstream = torch.randn(world * 3, 2, 4), torch.randn(world, world * 3, 2, 4)
        rows = mine(whole, rank, world).to(dtype).requires_grad_()
        gathered = distributed.gather_rows(rows, dist.group.WORLD)
        assert gathered.dtype == dtype and torch.equal(gathered, whole.to(dtype))
        own = upstream[rank].to(dtype)
        (grad,) = torch.autograd.grad(gathered, rows, own.transpose(1, 2).contiguous().mT)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        total = mine(upstream.to(dtype).to(wide).sum(0), rank, world)
        assert grad.dtype == dtype and grad.shape == rows.shape
        assert torch.allclose(grad.to(wide), total.to(dtype).to(wide), rtol=2**-7, atol=1e-6)
    valid = torch.arange(world * 3) % 2 == 0
    assert torch.equal(distributed.gather_values(mine(valid, rank, world), dist.group.WORLD), valid)
    assert distributed._REDUCE_SCATTER == {("cpu", "gloo"): supported}


def without_reduce_scatter(rank, world):
    """A backend that lacks it: said once, and the same gradients."""

    def refuse(*args, **keywords):
        raise RuntimeError("Backend gloo does not support reduce_scatter_tensor")

    distributed._REDUCE_SCATTER.clear()
    original, dist.reduce_scatter_tensor = dist.reduce_scatter_tensor, refuse
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gathered_rows(rank, world, supported=False)
    assert len(said) == 1 and "all_reduce" in str(said[0].message), said
    dist.reduce_scatter_tensor = original
    distributed._REDUCE_SCATTER.clear()


def rewards(rank, world, backend, kind):
    query, target = unit(world * 2, 3, 4), unit(world * 2, 3, 4)
    valid = torch.rand(2, world * 2, 3) > 0.3
    valid[0, :2] = True  # process 0 may leave its flags out where others bring theirs
    whole = group_reward(
        query, target, query_valid=valid[0], target_valid=valid[1], kind=kind, backend="reference"
    )
    own = group_reward(
        mine(query, rank, world), mine(target, rank, world), kind=kind, group=dist.group.WORLD,
        query_valid=mine(valid[0], rank, world) if rank else None,
        target_valid=mine(valid[1], rank, world), backend=backend,
    )  # fmt: skip
    for name in ("query_reward", "target_reward", "query_advantage", "target_advantage"):
        same(name, getattr(own, name), mine(getattr(whole, name), rank, world))
    same("rank", own.rank, whole.rank.view(2, world, 2, 3)[:, rank])


def uneven(rank):
    """A clear error on every process, not a hang."""
    calls = (
        lambda: info_nce(unit(2 + rank % 2, 4), unit(4, 4), group=dist.group.WORLD),
        lambda: info_nce_value_and_grad(unit(2, 4), unit(2 + rank, 4), group=dist.group.WORLD),
        lambda: group_reward(unit(1 + rank, 2, 4), unit(1 + rank, 2, 4), group=dist.group.WORLD),
    )
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert "every process must bring the same shapes and options" in str(error), error
        else:
            raise AssertionError("uneven rows were accepted")


def one_is_wrong(rank, world):
    """What one process alone has wrong is its own error there and named on all others."""
    wrong, group = rank == world - 1, dist.group.WORLD
    label = torch.tensor([0, 9 if wrong else 1])
    valid = torch.ones(2, 3, dtype=torch.bool if not wrong else torch.int64)
    kind = "best" if wrong else "rank"
    pair, other = (unit(2, 4), unit(3, 4)), (unit(2, 4), unit(3, 4)[: 1 if wrong else 3])
    rollouts, flags = unit(2, 3, 4), {"target_valid": valid, "group": group}
    reduction = "none" if wrong else "mean"
    backend = "triton" if wrong else "reference"
    calls = (
        (lambda: info_nce(*pair, labels=label, group=group), ValueError, "labels holds 9"),
        (lambda: info_nce(*pair, backend=backend, group=group), ValueError, "backend 'triton'"),
        (lambda: info_nce(pair, other, group=group), TypeError, "query is a tuple"),
        (
            lambda: dual_info_nce(pair, other, align=1.0, group=group),
            ValueError,
            "target has 1 rows",
        ),
        (
            lambda: info_nce_value_and_grad(*pair, reduction=reduction, group=group),
            ValueError,
            "redu",
        ),
        (
            lambda: dual_info_nce_value_and_grad(pair, other[:1] if wrong else other, group=group),
            TypeError,
            "disc must be a pair",
        ),
        (lambda: group_reward(rollouts, rollouts, kind=kind, group=group), ValueError, "kind is"),
        (lambda: group_reward(rollouts, rollouts, **flags), TypeError, "target_valid has dtype"),
    )
    for call, kind_of_error, message in calls:
        try:
            call()
        except (ValueError, TypeError) as error:
            everywhere = message == "query is a tuple"
            own = wrong or everywhere
            assert type(error) is (kind_of_error if own else ValueError), error
            assert message in str(error), error
            assert own != (f"group: process {world - 1} failed: " in str(error)), error
        else:
            raise AssertionError(f"{message}: accepted")


def options_differ(rank):
    """Other options would be other collectives: refused on every process."""
    query, target, odd = unit(2, 4), unit(2, 4), rank == 1
    ids = {"query_ids": torch.arange(2), "target_ids": torch.arange(2)}
    group = dist.group.WORLD
    calls = {
        "query": lambda: info_nce(*([x.float() for x in (query, target)] if odd else (query, target)), group=group),
        "directions": lambda: info_nce(query, target, directions=("q2t", "q2q")[: 1 + odd], group=group),
        "reduction": lambda: info_nce(query, target, reduction="sum" if odd else "mean", group=group),
        "ids": lambda: info_nce(query, target, **(ids if odd else {}), group=group),
        "labels": lambda: info_nce(query, target, labels=torch.arange(2) if odd else None, group=group),
        "backend": lambda: info_nce(query, target, backend="cpu" if odd else "reference", group=group),
        "align": lambda: dual_info_nce((query, target), (query, target), align=float(odd), group=group),
        "kind": lambda: group_reward(query[None], target[None], kind="gap" if odd else "rank", group=group),
    }  # fmt: skip
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            assert str(error).startswith(f"group: {name} is "), error
            assert "on process 0 and" in str(error) and "on process 1; every" in str(error), error
        else:
            raise AssertionError(f"{name}: different ones were accepted")


def exchanges(rank, world):
    """Every call exchanges its arguments once, whatever it computes of them."""
    called, original = [], dist.all_gather_object
    dist.all_gather_object = lambda *args, **keywords: (
        called.append(0) or original(*args, **keywords)
    )
    pair, group = (unit(2, 4), unit(2, 4)), dist.group.WORLD
    for call in (
        lambda: info_nce(*pair, group=group),
        lambda: dual_info_nce(pair, pair, align=1.0, group=group),
        lambda: dual_info_nce_value_and_grad(pair, pair, align=1.0, group=group),
        lambda: group_reward(unit(2, 3, 4), unit(2, 3, 4), group=group),
    ):
        called.clear()
        call()
        assert len(called) == 1, called
    dist.all_gather_object = original


def main(rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    for backend in ("reference", "cpu"):
        for partition in ("per_direction", "joint"):
            for directions in (("q2t", "t2q"), ("q2t", "t2q", "q2q", "t2t"), ("t2q",)):
                contrastive(rank, world, backend, partition=partition, directions=directions)
        contrastive(rank, world, backend, reduction="mean")
        dual(rank, world, backend)
        value_and_grad(rank, world, backend)
        for kind in ("rank_gap", "rank", "gap", "threshold", "adaptive_threshold"):
            rewards(rank, world, backend, kind)
    gathered_rows(rank, world, supported=True)
    without_reduce_scatter(rank, world)
    uneven(rank)
    one_is_wrong(rank, world)
    options_differ(rank)
    exchanges(rank, world)
    dist.barrier()
    print("everything equal", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    # gloo's threads sometimes abort an interpreter that shuts down in order
    os._exit(0)
