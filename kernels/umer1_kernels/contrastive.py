"""The contrastive problem behind info_nce, in the form every backend takes.

Legend: N rows (queries of this process), Q and M all queries and targets (of all processes), D
dimension. Row i has one positive pair (query_i, positive_i). A direction adds negatives to its
softmax:

    q2t: query_i against all targets but positive_i    t2t: positive_i against all other targets
    t2q: positive_i against all other queries          q2q: query_i against all other queries

The positive enters each softmax exactly once, whichever directions share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_kernels import checks, distributed

DIRECTIONS = ("q2t", "t2q", "q2q", "t2t")
PARTITIONS = ("per_direction", "joint")
IGNORED = -100  # a label that leaves its row out


@dataclass(slots=True)
class Rows:
    """N prepared rows. Differentiable: query, positive, all_query(), all_target."""

    query: Tensor  # [N, D]
    positive: Tensor  # [N, D]
    all_target: Tensor  # [M, D]
    first_query: int  # query_i stands at first_query + i in all_query
    first_label: int  # label_i = first_label + i; -1 if labels are not consecutive
    label: Tensor  # int64 [N]: where positive_i stands in all_target
    query_id: Tensor | None  # int64 [N], [N], [M], or None without ids
    positive_id: Tensor | None
    all_target_id: Tensor | None
    weight: Tensor  # [N] float32 or float64: what row i's loss counts for, reduction included
    group: object = None  # the process group, if there is one

    def all_query(self) -> Tensor:
        """[Q, D]: the queries of all processes."""
        return distributed.gather_rows(self.query, self.group)

    def all_query_id(self) -> Tensor | None:
        """int64 [Q], or None without ids."""
        return distributed.gather_values(self.query_id, self.group)


@dataclass(slots=True)
class Block:
    """One direction: the rows' vectors, the candidates', and which candidates are no negatives."""

    rows: Tensor  # [N, D]
    candidates: Tensor  # [C, D]
    excluded: Tensor  # int64 [N]: the row's own entry, never a negative
    row_id: Tensor | None  # equal ids are no negatives either
    candidate_id: Tensor | None


def blocks(rows: Rows, directions: tuple[str, ...]) -> list[Block]:
    """One block per direction, in the order given."""
    own = torch.arange(rows.query.shape[0], device=rows.query.device) + rows.first_query
    sides = {"q": (rows.query, rows.query_id), "t": (rows.positive, rows.positive_id)}
    candidates = {"t": (rows.all_target, rows.label, rows.all_target_id)}
    if any(direction[2] == "q" for direction in directions):
        candidates["q"] = (rows.all_query(), own, rows.all_query_id())
    result = []
    for direction in directions:
        row, row_id = sides[direction[0]]
        candidate, excluded, candidate_id = candidates[direction[2]]
        result.append(Block(row, candidate, excluded, row_id, candidate_id))
    return result


def check_arguments(
    query,
    target,
    *,
    scale,
    labels,
    label_offset,
    query_ids,
    target_ids,
    directions,
    partition,
    row_weight,
    reduction,
    group,
) -> None:
    """Raise one error naming the first wrong argument of info_nce."""
    checks.check_floating("query", query, 2)
    checks.check_floating("target", target, 2)
    checks.check_same("target", target, "query", query, dtype=True)
    if query.shape[1] != target.shape[1]:
        raise ValueError(f"target has dimension {target.shape[1]}, query {query.shape[1]}")
    count, targets = query.shape[0], target.shape[0]
    if count == 0 or targets == 0:
        raise ValueError(f"query has {count} rows, target {targets}; neither may be empty")
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise ValueError(f"scale has shape {tuple(scale.shape)}; it must be one number")
    if not isinstance(directions, (tuple, list)) or not directions:
        raise ValueError(f"directions is {directions!r}; it must be a tuple such as ('q2t', 't2q')")
    for direction in directions:
        checks.check_choice("directions", direction, DIRECTIONS)
    if len(set(directions)) != len(directions):
        raise ValueError(f"directions is {directions!r}; each may be named once")
    checks.check_choice("partition", partition, PARTITIONS)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    if (query_ids is None) != (target_ids is None):
        raise ValueError("query_ids and target_ids go together: give both or neither")
    for name, ids, length in (("query_ids", query_ids, count), ("target_ids", target_ids, targets)):
        if ids is not None:
            checks.check_integer(name, ids, (length,))
            checks.check_same(name, ids, "query", query, dtype=False)
    if row_weight is not None:
        checks.check_shape("row_weight", row_weight, (count,))
        checks.check_same("row_weight", row_weight, "query", query, dtype=False)
    if group is not None and label_offset != 0:
        raise ValueError(
            "label_offset goes with targets you gathered yourself; group gathers them here"
        )
    if labels is not None:
        checks.check_integer("labels", labels, (count,))
        checks.check_same("labels", labels, "query", query, dtype=False)
        used = labels[labels != IGNORED] if labels.device.type == "cpu" else labels
        checks.check_range("labels", used + label_offset, 0, targets)
    elif label_offset < 0 or label_offset + count > targets:
        raise ValueError(
            f"target has {targets} rows; {count} queries with label_offset {label_offset} need "
            f"rows {label_offset} to {label_offset + count - 1}"
        )


def alike(options: dict, backend: str, **vectors: Tensor) -> dict[str, object]:
    """What every process of a group must bring alike, see `distributed.agree`. vectors: by name."""
    return {name: distributed.form(value) for name, value in vectors.items()} | {
        "directions": tuple(options["directions"]),
        "partition": options["partition"],
        "reduction": options["reduction"],
        "ids": "given" if options["query_ids"] is not None else None,
        "labels": "given" if options["labels"] is not None else None,
        "backend": backend,
    }


def prepare(
    query: Tensor,
    target: Tensor,
    *,
    labels: Tensor | None,
    label_offset: int,
    query_ids: Tensor | None,
    target_ids: Tensor | None,
    row_weight: Tensor | None,
    reduction: str,
    group,
) -> Rows:
    """Resolve labels, weights and the process group. Arguments are checked already, and the
    processes agree."""
    count = query.shape[0]
    rank, _ = distributed.rank_and_size(group)
    first_label = label_offset + rank * target.shape[0]
    here = torch.arange(count, device=query.device)
    local = here + label_offset
    live = None
    if labels is not None:
        live = labels != IGNORED
        local = torch.where(live, labels.long() + label_offset, 0)
    return Rows(
        query=query,
        # without labels the positives are consecutive rows: a view, whose gradient is free
        positive=target.narrow(0, label_offset, count) if labels is None else target[local],
        all_target=distributed.gather_rows(target, group),
        first_query=rank * count,
        first_label=first_label if labels is None else -1,
        label=local + rank * target.shape[0],
        query_id=None if query_ids is None else query_ids.long(),
        positive_id=None if target_ids is None else target_ids.long()[local],
        all_target_id=_ids(target_ids, group),
        weight=_row_weight(query, row_weight, live, reduction, group),
        group=group,
    )


def reduce(loss: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """Row losses [N] -> the result. A row of weight 0 counts nothing, whatever its loss."""
    weighted = torch.where(weight != 0, loss * weight, 0.0)
    return weighted if reduction == "none" else weighted.sum()


def _ids(ids: Tensor | None, group) -> Tensor | None:
    return None if ids is None else distributed.gather_values(ids.long(), group)


def _row_weight(
    query: Tensor, row_weight: Tensor | None, live: Tensor | None, reduction: str, group
) -> Tensor:
    """[N]; for "mean" its sum over processes is their number: their mean loss is the global one."""
    dtype = checks.compute_dtype(query)
    weight = torch.ones(query.shape[0], dtype=dtype, device=query.device)
    if row_weight is not None:
        weight = row_weight.detach().to(dtype)
    if live is not None:
        weight = torch.where(live, weight, 0.0)
    if reduction != "mean":
        return weight
    total = distributed.sum_over(weight.sum(), group) / distributed.rank_and_size(group)[1]
    return torch.where(total != 0, weight / total, 0.0)
