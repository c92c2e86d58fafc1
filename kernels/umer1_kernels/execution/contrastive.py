"""How contrastive losses run: plans.py's plans over any backend's primitives.

Legend: N rows, M targets, Q queries, D dimension. See contrastive.py of the package for directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from umer1_kernels import checks, plans
from umer1_kernels.execution.protocol import Block, Kept, Pools, Primitives
from umer1_kernels.execution.terms import Terms, inner_product, own_logits, terms


@dataclass(slots=True)
class Problem:
    """Row i's positive pair is (query_i, target_label_i)."""

    query: Tensor  # [N, D]
    target: Tensor  # [M, D]
    other: Tensor | None  # [Q, D]: all queries; None: `query` itself
    scale: Tensor  # scalar, compute dtype
    label: Tensor  # int64 [N]
    first_label: int  # label_i = first_label + i; -1 if labels are not consecutive
    first_query: int  # query_i stands at first_query + i among all queries
    query_id: Tensor | None  # int64 [N], [M], [Q]
    target_id: Tensor | None
    other_id: Tensor | None
    weight: Tensor  # [N], compute dtype
    directions: tuple[str, ...]
    joint: bool
    need_target: bool = True  # a memory of targets has no gradient to make
    need_scale: bool = True  # nor has a scale that is a number

    def plan(self) -> plans.Plan:
        candidates = self.target if "q2t" in self.directions else self.all_query
        count, dimension = self.query.shape
        return plans.contrastive(
            self.directions,
            self.first_label >= 0 and self.other is None,
            count,
            candidates.shape[0],
            dimension,
            self.query.element_size(),
            "cuda" if self.query.is_cuda else "cpu",
        )

    @property
    def all_query(self) -> Tensor:
        return self.query if self.other is None else self.other

    def scaled(self, factor: Tensor) -> Problem:
        """The same with the rows' weights times `factor` (a scalar or [N])."""
        return replace(self, weight=self.weight * factor.to(self.weight.dtype))

    def own_columns(self) -> slice:
        """Where consecutive labels stand among the targets."""
        return slice(self.first_label, self.first_label + self.query.shape[0])

    def positive(self) -> Tensor:
        if self.first_label >= 0:
            return self.target.narrow(0, self.first_label, self.query.shape[0])
        return self.target[self.label]

    def block(self, direction: str) -> Block:
        """The rows' vectors of one direction against its candidates."""
        index = torch.arange(self.query.shape[0], device=self.query.device) + self.first_query
        ids = self.query_id is not None
        row_id = None
        if ids:
            row_id = self.query_id if direction[0] == "q" else self.target_id[self.label]
        other_id = self.query_id if self.other is None else self.other_id
        rows = self.query if direction[0] == "q" else self.positive()
        if direction[2] == "t":
            return Block(rows, self.target, self.scale, self.label, row_id, self.target_id)
        return Block(rows, self.all_query, self.scale, index, row_id, other_id)


@dataclass(slots=True)
class Gradients:
    """Of the summed loss; None where there is none or none is needed."""

    query: Tensor
    target: Tensor | None
    other: Tensor | None
    scale: Tensor | None


def solve(
    primitives: Primitives, problem: Problem, gradients: bool
) -> tuple[Tensor, Tensor, Gradients | None]:
    """Row losses [N] (not weighted), hit [N], and the gradients of their weighted sum."""
    pair = set(problem.directions) == {"q2t", "t2q"} and problem.plan().name.startswith("both")
    if pair:
        return _pair(primitives, problem, gradients)
    return _rows(primitives, problem, gradients)


def _pair(primitives: Primitives, problem: Problem, gradients: bool):
    """Both directions from one product: t2q reads q2t's logits by columns."""
    block = problem.block("q2t")
    kept = None
    if gradients and problem.plan() is plans.PAIR_KEPT:
        kept = primitives.keep(block, columns=True)
        rows, columns = kept.rows, kept.columns
    else:
        rows, columns = primitives.pools(block, columns=True)
    own = own_logits(problem.query, problem.target, problem.label)
    found = pair_terms(problem, rows, columns, own)
    if not gradients:
        return found.loss, found.hit, None
    column = torch.zeros_like(columns.total)
    column[problem.own_columns()] = found.coefficients[problem.directions.index("t2q")]
    made = pair_gradients(primitives, problem, found, rows, columns, column, kept)
    return found.loss, found.hit, made


def pair_terms(problem: Problem, rows: Pools, columns: Pools, own: Tensor) -> Terms:
    """From q2t's pools by rows and t2q's by columns, of all of which a row's own column counts."""
    used = problem.own_columns()
    pools = {"q2t": rows, "t2q": Pools(columns.best[used], columns.total[used])}
    in_order = [pools[name] for name in problem.directions]
    return terms(in_order, own, problem.scale, problem.weight, problem.joint)


def pair_gradients(
    primitives: Primitives,
    problem: Problem,
    found: Terms,
    rows: Pools,
    columns: Pools,
    column: Tensor,
    kept: Kept | None = None,
) -> Gradients:
    """`column` [M]: the coefficients of all columns. Without kept logits they are made again."""
    query, target, fold = problem.query, problem.target, _fold(problem.scale)
    row = found.coefficients[problem.directions.index("q2t")] * fold
    label, column = found.pull * fold, column * fold
    if kept is not None:
        logit_grad = kept.gradient(row, label, column)
        query_grad = primitives.multiply(logit_grad, target)
        target_grad = None
        if problem.need_target:
            target_grad = primitives.transpose_multiply(logit_grad, query)
    else:
        query_grad = torch.empty_like(query, memory_format=torch.contiguous_format)
        total = _wide_zeros(target) if problem.need_target else None
        block = problem.block("q2t")
        for chunk in _chunks(problem, block):
            here = Pools(rows.best[chunk], rows.total[chunk])
            part = block.chunk(chunk.start, chunk.stop)
            logit_grad = primitives.gradient(part, here, row[chunk], label[chunk], columns, column)
            primitives.multiply(logit_grad, target, out=query_grad[chunk])
            if total is not None:
                primitives.accumulate(total, logit_grad, query[chunk])
        target_grad = None if total is None else total.to(target.dtype)
    # sum of x d loss / d x over all logits, without a pass over them
    scale_grad = inner_product(query, query_grad) / fold if problem.need_scale else None
    return _unfold(Gradients(query_grad, target_grad, None, scale_grad), problem)


def _rows(primitives: Primitives, problem: Problem, gradients: bool):
    """Any directions, one product each, a chunk of rows at a time."""
    names, count = problem.directions, problem.query.shape[0]
    blocks = [problem.block(name) for name in names]
    own = own_logits(problem.query, problem.target, problem.label)
    widest = max(blocks, key=lambda block: block.candidates.shape[0])
    whole = problem.plan() is plans.WHOLE
    chunks = [slice(0, count)] if whole or not gradients else _chunks(problem, widest)
    sums = _Sums(problem, direct=len(chunks) == 1) if gradients else None
    parts: list[Terms] = []
    for chunk in chunks:
        here = [block.chunk(chunk.start, chunk.stop) for block in blocks]
        kept = [primitives.keep(block) for block in here] if gradients else []
        pools = [each.rows for each in kept] or [primitives.pools(block)[0] for block in here]
        weight = problem.weight[chunk]
        found = terms(pools, own[chunk], problem.scale, weight, problem.joint)
        parts.append(found)
        if sums is not None:
            sums.add(primitives, chunk, here, kept, found, own[chunk])
    loss, hit = (torch.cat([getattr(part, name) for part in parts]) for name in ("loss", "hit"))
    return loss, hit, None if sums is None else sums.gradients()


class _Sums:
    """Gradients under way, with the factor `fold` in them."""

    def __init__(self, problem: Problem, direct: bool):
        self.problem, self.fold = problem, _fold(problem.scale)
        names = problem.directions
        # one product writes a side once: no float32 sum is needed
        self.direct_rows = len(names) == 1 and names[0][0] == "q" and names[0][2] == "t"
        self.direct_candidates = direct and self.direct_rows
        wide = checks.compute_dtype(problem.query)
        row_dtype = problem.query.dtype if self.direct_rows else wide
        self.query = torch.zeros_like(problem.query, dtype=row_dtype)
        self.target = None
        if problem.need_target and not self.direct_candidates:
            self.target = _wide_zeros(problem.target)
        separate = problem.other is not None and any(name[2] == "q" for name in names)
        self.other = _wide_zeros(problem.other) if separate else None
        self.scale = None
        if problem.need_scale:
            self.scale = torch.zeros((), dtype=wide, device=problem.query.device)
        # the first block that pairs queries with targets carries the gradient of the own logit
        self.carrier = next((k for k, name in enumerate(names) if name[0] != name[2]), None)

    def add(self, primitives, chunk: slice, blocks, kept, found: Terms, own: Tensor) -> None:
        problem = self.problem
        for k, (name, block) in enumerate(zip(problem.directions, blocks)):
            label = found.pull if k == self.carrier else torch.zeros_like(found.pull)
            logit_grad = kept[k].gradient(found.coefficients[k] * self.fold, label * self.fold)
            if self.direct_rows:
                by_rows = primitives.multiply(logit_grad, block.candidates, out=self.query[chunk])
            else:
                by_rows = primitives.multiply(logit_grad, block.candidates)
                self._add_rows(name[0], chunk, by_rows)
            if self.scale is not None:
                self.scale += inner_product(block.rows, by_rows) / self.fold
            if name[2] == "t" and not problem.need_target:
                continue
            if self.direct_candidates:
                self.target = primitives.transpose_multiply(logit_grad, block.rows)
            else:
                primitives.accumulate(self._candidates(name[2]), logit_grad, block.rows)
        if self.carrier is None:
            self._pull(chunk, found.pull, own)

    def gradients(self) -> Gradients:
        dtype = self.problem.query.dtype
        sides = (self.query, self.target, self.other)
        done = [None if side is None else side.to(dtype) for side in sides]
        return _unfold(Gradients(*done, self.scale), self.problem)

    def _candidates(self, side: str) -> Tensor:
        if side == "t":
            return self.target
        return self.query if self.other is None else self.other

    def _add_rows(self, side: str, chunk: slice, rows: Tensor) -> None:
        if side == "q":
            self.query[chunk] += rows
        elif self.target is not None:
            self.target.index_add_(0, self.problem.label[chunk], rows.to(self.target.dtype))

    def _pull(self, chunk: slice, pull: Tensor, own: Tensor) -> None:
        """The own logit's gradient where no direction pairs queries with targets."""
        problem, factor = self.problem, (pull * self.fold)[:, None]
        label = problem.label[chunk]
        self.query[chunk] += factor * problem.target[label]
        self._add_rows("t", chunk, factor * problem.query[chunk])
        if self.scale is not None:
            self.scale += (pull * own).sum()


def _chunks(problem: Problem, block: Block) -> list[slice]:
    device = "cuda" if problem.query.is_cuda else "cpu"
    size = plans.chunk_rows(block.candidates.shape[0], problem.query.element_size(), device)
    count = problem.query.shape[0]
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _wide_zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=checks.compute_dtype(like))


def _fold(scale: Tensor) -> Tensor:
    """d z / d x, multiplied into the coefficients; 1 for a scale of 0, whose own gradient needs them."""
    return torch.where(scale == 0, 1.0, scale)


def _unfold(gradients: Gradients, problem: Problem) -> Gradients:
    """A scale of 0 gives vectors no gradient."""
    if problem.scale.device.type != "cpu" or problem.scale == 0:
        factor = (problem.scale != 0).to(problem.query.dtype)
        for side in (gradients.query, gradients.target, gradients.other):
            if side is not None:
                side.mul_(factor)
    return gradients
