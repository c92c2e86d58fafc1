"""The operators of the small dual InfoNCE kernel, run by its model on the CPU (dual_info_nce.cpp)."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

INTEGER, NUMBER, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
FIELDS = (
    ("queries", INTEGER), ("targets", INTEGER), ("crossed", INTEGER), ("dimension", INTEGER * 2),
    *((name, POINTER) for name in ("gen_query", "gen_target", "disc_query", "disc_target", "scale")),
    ("fixed_scale", NUMBER), ("labels", POINTER), ("label_offset", INTEGER),
    *((name, POINTER) for name in ("query_id", "target_id", "weight")),
    *((name, INTEGER) for name in ("weight_stride", "q2t", "t2q", "hit_by_column", "joint", "reduction")),
    ("align", NUMBER),
    *((name, POINTER) for name in (
        "loss", "gen", "disc", "align_loss", "metrics", "slope", "logit_grad",
        "loss_grad", "gen_grad", "disc_grad", "align_grad",
        "gen_query_grad", "gen_target_grad", "disc_query_grad", "disc_target_grad", "scale_grad",
    )),
    *((name, INTEGER) for name in (
        "makes_loss", "makes_gradients", "warpgroups",
        "multiprocessors", "shared_bytes", "late_products", "seed",
    )),
)  # fmt: skip
VECTORS = ("gen_query", "gen_target", "disc_query", "disc_target")
PLAN = (
    "blocks", "tiles_per_block", "logit_slots", "gradient_slots", "large", "shared_bytes",
    "logit_tiles", "gradient_tiles",
)  # fmt: skip
LOSS, LOGIT_GRADIENT, GRADIENTS = range(3)


class Call(ctypes.Structure):
    _fields_ = FIELDS


@dataclass
class Emulation:
    """A GPU: an H200 by default. `warpgroups`: wgmma, else mma."""

    library: ctypes.CDLL
    warpgroups: bool = False
    multiprocessors: int = 132
    shared_bytes: int = 232448
    late_products: bool = False
    seed: int = 0

    def on(self, **changes) -> Emulation:
        return replace(self, **changes)

    def small_dual_info_nce(
        self, gen_query, gen_target, disc_query, disc_target, scale, fixed_scale, labels,
        label_offset, query_id, target_id, weight, q2t, t2q, hit_by_column, joint, reduction,
        crossed, align, make, engine,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        vectors = (gen_query, gen_target, disc_query, disc_target)
        count, targets = gen_query.shape[0], gen_target.shape[0]
        sides = 1 if disc_query is None else 2
        pairs = 4 if crossed else sides
        shape = (count,) if reduction == 2 else ()
        losses = [_nan(*shape) for _ in range(4)]
        metrics, slope = _nan(sides, 3), _nan(4)
        padded = [-(-size // 128) * 128 for size in (count, targets)]
        logit_grad = _nan(pairs, *padded, dtype=torch.bfloat16)
        gradients = [
            None if make != GRADIENTS or side is None else torch.full_like(side, float("nan"))
            for side in vectors
        ]
        self._run(
            vectors, crossed, align, gradients, scale=scale, fixed_scale=fixed_scale,
            labels=labels, label_offset=label_offset, query_id=query_id, target_id=target_id,
            weight=weight, weight_stride=count if weight is not None and weight.dim() == 2 else 0,
            q2t=q2t, t2q=t2q, hit_by_column=hit_by_column, joint=joint, reduction=reduction,
            loss=losses[0], gen=losses[1], disc=losses[2], align_loss=losses[3],
            metrics=metrics, slope=slope, logit_grad=logit_grad if make != LOSS else None,
            makes_loss=True, makes_gradients=make == GRADIENTS,
        )  # fmt: skip
        return (
            *losses, metrics, slope, logit_grad if make == LOGIT_GRADIENT else _empty(),
            *(_empty() if side is None else side for side in gradients),
        )  # fmt: skip

    def small_dual_info_nce_gradient(
        self, gen_query, gen_target, disc_query, disc_target, logit_grad, slope, loss_grad,
        gen_grad, disc_grad, align_grad, crossed, align, needed, engine,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        vectors = (gen_query, gen_target, disc_query, disc_target)
        gradients = [
            None if side is None or not needed >> k & 1 else torch.full_like(side, float("nan"))
            for k, side in enumerate(vectors)
        ]
        scale_grad = _nan()
        self._run(
            vectors, crossed, align, gradients, logit_grad=logit_grad, slope=slope,
            loss_grad=loss_grad, gen_grad=gen_grad, disc_grad=disc_grad, align_grad=align_grad,
            scale_grad=scale_grad, makes_loss=False, makes_gradients=True,
        )  # fmt: skip
        return *(_empty() if side is None else side for side in gradients), scale_grad

    def plan(self, queries, targets, dimension, pairs, *, loss=True, gradients=True) -> dict:
        """What a launch of so many pairs looks like; no vectors are needed."""
        some = ctypes.c_char_p(b" ")
        place = ctypes.cast(some, POINTER).value
        given = dict.fromkeys(VECTORS if pairs > 1 else VECTORS[:2], place)
        wanted = {f"{name}_grad": place for name in given}
        call = self._call(
            dimension=(INTEGER * 2)(dimension, dimension), queries=queries, targets=targets,
            crossed=pairs == 4, makes_loss=loss, makes_gradients=gradients, **given, **wanted,
        )  # fmt: skip
        values = (INTEGER * len(PLAN))()
        self.library.dual_info_nce_plan(ctypes.byref(call), values)
        return dict(zip(PLAN, values, strict=True))

    def _run(self, vectors, crossed, align, gradients, **fields) -> None:
        kept = [None if side is None else side.contiguous() for side in vectors]
        assert all(side is None or side.dtype == torch.bfloat16 for side in kept)
        dimension = [0 if side is None else side.shape[1] for side in (kept[0], kept[2])]
        for name, side, gradient in zip(VECTORS, kept, gradients, strict=True):
            fields |= {name: side, f"{name}_grad": gradient}
        kept += [value for value in fields.values() if isinstance(value, Tensor)]
        fields = {
            name: value.data_ptr() if isinstance(value, Tensor) else value
            for name, value in fields.items()
        }
        call = self._call(
            queries=len(kept[0]), targets=len(kept[1]), dimension=(INTEGER * 2)(*dimension),
            crossed=crossed, align=align, **fields,
        )  # fmt: skip
        if self.library.dual_info_nce(ctypes.byref(call)):
            message = self.library.dual_info_nce_message
            message.restype = ctypes.c_char_p
            raise RuntimeError(message().decode())

    def _call(self, **fields) -> Call:
        fields |= {
            name: getattr(self, name)
            for name in ("warpgroups", "multiprocessors", "shared_bytes", "late_products", "seed")
        }
        return Call(**fields)


def _nan(*shape: int, dtype=torch.float32) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


_empty = functools.partial(torch.empty, 0, dtype=torch.bfloat16)
