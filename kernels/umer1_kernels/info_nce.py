"""info_nce and dual_info_nce: contrastive losses with exact logits."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from umer1_kernels import checks, contrastive, distributed
from umer1_kernels.backends import choose
from umer1_kernels.dual import DualInfoNCE, dual
from umer1_kernels.execution.contrastive_operator import weighted_loss as planned_weighted_loss
from umer1_kernels.reference.info_nce import weighted_loss as reference_weighted_loss


def info_nce(
    query: Tensor,
    target: Tensor,
    *,
    scale: float | Tensor = 50.0,
    labels: Tensor | None = None,
    label_offset: int = 0,
    query_ids: Tensor | None = None,
    target_ids: Tensor | None = None,
    directions: tuple[str, ...] = ("q2t", "t2q"),
    partition: str = "per_direction",
    row_weight: Tensor | None = None,
    reduction: str = "mean",
    group=None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE over in-batch negatives; the defaults are UME-R1's symmetric loss.

    Row i's positive pair is query i and target y(i). With s = scale and per direction a set of
    negatives, loss_i = -log( exp(s pos_i) / (exp(s pos_i) + sum over negatives exp(s neg)) ):

        q2t: query i  against the other targets       t2q: target y(i) against the other queries
        q2q: query i  against the other queries       t2t: target y(i) against the other targets

    Args:
        query: [N, D]. target: [M, D] of the same dtype; M > N for hard negatives. Used as they are:
            normalise them before. float64, float32, bfloat16 or float16.
        scale: 1 / temperature; a float, or a tensor of one element that may be learnable.
        labels: int64 [N], y(i) before the offset; -100 leaves row i out (it stays a candidate for
            the others). Without labels y(i) = i.
        label_offset: added to y(i): where your rows start in targets you gathered yourself.
        query_ids, target_ids: int64 [N], [M]. Candidates with the row's id are no negatives (false
            negatives, duplicates); a row's own positive always counts.
        directions: any of "q2t", "t2q", "q2q", "t2t".
        partition: "per_direction": one softmax per direction, the loss is their mean. "joint": one
            softmax over the negatives of all directions. The positive is in every softmax exactly
            once.
        row_weight: [N], not differentiated.
        reduction: "mean": sum of weighted row losses / sum of weights, 0 if no row counts. "sum".
            "none": the weighted row losses [N].
        group: a process group: queries and targets of all its processes are candidates, each
            process passes the same N and M and gets the loss of its own rows. The mean over
            processes is the global loss, so averaged gradients (DistributedDataParallel) are its
            gradient.
        backend: "auto", "reference", "cpu", "triton" or "cuda" (at most 1408 queries and targets).

    Returns:
        A float32 scalar (float64 for float64 inputs), or [N] with reduction="none". Logits are made
        and kept in at least float32, inside autocast too.

    Raises:
        ValueError, TypeError: an argument is wrong, here or on another process of the group; the
            message names it.
    """
    options = {
        "scale": scale,
        "labels": labels,
        "label_offset": label_offset,
        "query_ids": query_ids,
        "target_ids": target_ids,
        "directions": directions,
        "partition": partition,
        "row_weight": row_weight,
        "reduction": reduction,
        "group": group,
    }

    def check() -> str:
        contrastive.check_arguments(query, target, **options)
        return _choose("info_nce", backend, (query, target), options)

    def alike(chosen: str) -> dict[str, object]:
        return contrastive.alike(options, chosen, query=query, target=target)

    chosen = distributed.agree(group, check, alike)
    if chosen == "cuda":
        from umer1_kernels.backends.cuda import dual_info_nce as native

        return native.info_nce(query, target, **options)
    weighted_loss = _weighted_loss(chosen)
    rows = contrastive.prepare(
        query,
        target,
        labels=labels,
        label_offset=label_offset,
        query_ids=query_ids,
        target_ids=target_ids,
        row_weight=row_weight,
        reduction=reduction,
        group=group,
    )
    return weighted_loss(rows, scale, tuple(directions), partition, reduction)[0]


def dual_info_nce(
    gen: tuple[Tensor, Tensor],
    disc: tuple[Tensor, Tensor],
    *,
    align: float = 0.0,
    scale: float | Tensor = 50.0,
    labels: Tensor | None = None,
    label_offset: int = 0,
    query_ids: Tensor | None = None,
    target_ids: Tensor | None = None,
    directions: tuple[str, ...] = ("q2t", "t2q"),
    partition: str = "per_direction",
    row_weight: Tensor | None = None,
    reduction: str = "mean",
    group=None,
    backend: str = "auto",
) -> DualInfoNCE:
    """The generative and the discriminative contrastive loss of one batch, and their sum.

    Args:
        gen, disc: (query, target) vectors of each kind; all keywords are info_nce's and hold for
            both.
        align: weight of the cross terms, the mean of info_nce(gen query, disc target) and
            info_nce(disc query, gen target), which make one space of the two. 0 (UME-R1): not
            computed.

    Returns:
        DualInfoNCE: loss, gen, disc, align, and `metrics`, device scalars without gradient over the
        rows of this process: gen_hit, disc_hit (hit@1 in the first direction; a tie is a miss),
        gen_positive_cosine, gen_negative_cosine, disc_positive_cosine, disc_negative_cosine.

    Raises:
        ValueError, TypeError: an argument is wrong, here or on another process of the group; the
            message names it.
    """
    options = {
        "scale": scale,
        "labels": labels,
        "label_offset": label_offset,
        "query_ids": query_ids,
        "target_ids": target_ids,
        "directions": directions,
        "partition": partition,
        "row_weight": row_weight,
        "reduction": reduction,
        "group": group,
    }
    arguments = {"align": align, **options}

    def check() -> str:
        check_pairs(gen, disc, align, options)
        return _choose("dual_info_nce", backend, (*gen, *disc), arguments)

    def alike(chosen: str) -> dict[str, object]:
        names = ("gen query", "gen target", "disc query", "disc target")
        vectors = dict(zip(names, (*gen, *disc), strict=True))
        # with align there are more products, and more to gather
        return contrastive.alike(options, chosen, **vectors) | {"align": align}

    chosen = distributed.agree(group, check, alike)
    if chosen == "cuda":
        from umer1_kernels.backends.cuda import dual_info_nce as native

        return native.dual_info_nce(gen, disc, **arguments)
    return dual(_weighted_loss(chosen), gen, disc, **arguments)


def check_pairs(gen, disc, align: float, options: dict) -> None:
    """Raise one error naming the first wrong argument of dual_info_nce."""
    for name, pair in (("gen", gen), ("disc", disc)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{name} must be a pair (query, target)")
        contrastive.check_arguments(*pair, **options)
    for name, one, other in (("query", gen[0], disc[0]), ("target", gen[1], disc[1])):
        if one.shape[0] != other.shape[0] or (align and one.shape != other.shape):
            raise ValueError(f"gen {name} has shape {tuple(one.shape)}, disc {tuple(other.shape)}")


def _choose(function: str, backend: str, tensors: tuple[Tensor, ...], arguments: dict) -> str:
    """The backend; it can run these inputs."""
    chosen = choose(function, backend, *tensors, arguments=arguments).backend
    if chosen != "reference":
        checks.check_no_tangent(function, *tensors)
    return chosen


def _weighted_loss(chosen: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if chosen == "reference":
        return reference_weighted_loss
    return functools.partial(planned_weighted_loss, chosen)
