"""What a backend provides: products of rows and candidates, and softmaxes over the negatives.

Every loss here is a softmax over a row's negatives and one entry of its own, its positive or label,
which is handled apart so that losses near zero keep their digits.

Legend: R rows, C candidates, D dimension. x_ij = <rows_i, candidates_j> and z_ij = scale * x_ij, in
float32 (float64 for float64 inputs), never rounded below that. Differences x - best are taken
before the scale multiplies them, so that near ties keep their digits at any scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(slots=True)
class Block:
    """Rows against candidates, and which candidates are no negatives of a row."""

    rows: Tensor  # [R, D] float64, float32, bfloat16 or float16
    candidates: Tensor  # [C, D] of the same dtype
    scale: Tensor  # scalar on the device, float32 (float64 for float64 rows)
    excluded: Tensor  # int64 [R] in [0, C): the row's own entry
    row_id: Tensor | None = None  # int64 [R] and [C]: equal ids are no negatives either
    candidate_id: Tensor | None = None
    live: Tensor | None = None  # int32 scalar on the device: rows from here on do not count

    def chunk(self, begin: int, end: int) -> Block:
        """These rows against all candidates."""
        row_id = None if self.row_id is None else self.row_id[begin:end]
        live = None if self.live is None else (self.live - begin).clamp(0, end - begin)
        return Block(
            self.rows[begin:end],
            self.candidates,
            self.scale,
            self.excluded[begin:end],
            row_id,
            self.candidate_id,
            live,
        )


class Pools(NamedTuple):
    """Over the negatives of each row ([R]) or of each candidate ([C]), in the compute dtype.

    Rows that do not count (`Block.live`) have best 0 and total 0.
    """

    best: Tensor  # the x of the largest z; minus infinity times the scale's sign without negatives
    total: Tensor  # sum of exp(scale (x - best)); 0 without negatives
    moment: Tensor | None = None  # sum of exp(scale (x - best)) scale (x - best), if asked for


class Kept(Protocol):
    """What stays of R x C logits between their softmax and their gradient."""

    rows: Pools
    columns: Pools | None

    def gradient(self, row: Tensor, label: Tensor, column: Tensor | None = None) -> Tensor:
        """`Primitives.gradient` of the kept logits; may overwrite them."""


class Primitives(Protocol):
    """One backend. Deterministic, without host synchronisation on a GPU."""

    def pools(
        self, block: Block, *, columns: bool = False, moment: bool = False
    ) -> tuple[Pools, Pools | None]:
        """Pools of the rows and, if asked for, of the candidates; R x C values never exist."""

    def keep(self, block: Block, *, columns: bool = False, moment: bool = False) -> Kept:
        """The same pools, with what `Kept.gradient` needs."""

    def gradient(
        self,
        block: Block,
        rows: Pools,
        row: Tensor,
        label: Tensor,
        columns: Pools | None = None,
        column: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Tensor:
        """dz [R, C], computed in float32 and rounded once to the dtype of the rows:

            (row_i + slope_i scale (x_ij - rows.best_i)) exp(scale (x_ij - rows.best_i))
                + column_j exp(scale (x_ij - columns.best_j))

        at negatives, label_i at the excluded entry, 0 elsewhere. row, label, slope [R] and column
        [C] are in the compute dtype; slope (of an entropy) and column never come together. A
        coefficient of 0 gives exactly 0, whatever its pool holds.
        """

    def multiply(self, left: Tensor, right: Tensor, *, live=None, out=None) -> Tensor:
        """left [R, C] @ right [C, D] -> [R, D] in the dtype of right; dead rows are 0."""

    def transpose_multiply(self, left: Tensor, right: Tensor, *, live=None) -> Tensor:
        """left [R, C].T @ right [R, D] over the live rows -> [C, D] in the dtype of right."""

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, *, live=None) -> None:
        """total [C, D] float32 (float64) += left [R, C].T @ right [R, D] over the live rows."""

    def compact(self, mask: Tensor) -> tuple[Tensor, Tensor | None, int]:
        """bool [T] -> positions that count, in order; how many, on the device; and on the host.

        On the CPU: (int64 [n], None, n). On a GPU, where the host cannot know: (int64 [T], padded
        with 0; int32 scalar; T).
        """
