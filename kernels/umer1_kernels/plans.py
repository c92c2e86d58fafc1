"""Which plan runs for which problem, as data: how many products it takes, and what it keeps in memory.

One product of R rows, C candidates and dimension D is 2 R C D operations; a loss with its gradient
needs three (logits, gradient of the rows, gradient of the candidates).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KEPT_BYTES = {"cpu": 2**28, "cuda": 2**34}  # of kept logits, beyond which they are made again
CHUNK_ROWS = 1024  # rows of a chunk: enough to keep the products of the gradient efficient
CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**30}  # of a chunk's gradient, if CHUNK_ROWS rows take less


class Plan(NamedTuple):
    """name; products with gradient; what lives besides inputs, outputs and O(R + C + D) vectors."""

    name: str
    products: float
    keeps: str


FORWARD = Plan("forward only", 1, "a bounded workspace")
WHOLE = Plan("whole", 3, "the R x C gradient of the logits")
ROW_CHUNKS = Plan("row chunks", 3, "a chunk of that gradient, a float32 sum of the candidates'")
PAIR_KEPT = Plan("both directions of kept logits", 3, "R x C exponentials or logits")
PAIR_AGAIN = Plan("both directions, logits made twice", 4, "a chunk of the gradient, a float32 sum")
GROUP_PAIR = PAIR_AGAIN._replace(name="both directions, column pools over the group")
DIRECTIONS = Plan("one after the other", 3, "a chunk of each direction, float32 sums")
# small batches on a GPU: logits stay on the chip
ON_CHIP_FORWARD = Plan("one launch, forward only", 1, "pools of tiles")
ON_CHIP_WHOLE = Plan("one launch for losses and gradients", 3, "the N x M gradient of the logits")
ON_CHIP = Plan("a launch forward, a launch backward", 3, "the N x M gradient of the logits")


def of(function: str, arguments: dict, gradients: bool = False) -> Plan:
    """The plan of a public loss called with these arguments, defaults included.

    `gradients`: they are made whether or not an argument requires them.
    """
    first = list(arguments.values())[:2]
    rows, candidates = first[0] if function == "dual_info_nce" else first
    if not gradients and not (torch.is_grad_enabled() and _need_gradient(arguments)):
        return FORWARD
    count = rows.shape[0]
    shape = (*candidates.shape, rows.element_size(), "cuda" if rows.is_cuda else "cpu")
    if function in ("info_nce", "dual_info_nce"):
        shared = arguments["labels"] is None
        plan = contrastive(tuple(arguments["directions"]), shared, count, *shape)
        if plan.name.startswith("both") and arguments["group"] is not None:
            return GROUP_PAIR
        return again(plan) if arguments["reduction"] == "none" else plan
    counts = arguments.get("mask")
    if function == "linear_cross_entropy":
        counts = arguments["target"] != arguments["ignore_index"]
    if counts is not None and rows.device.type == "cpu":
        count = int((counts != 0).sum())
    if function == "linear_logprob" or arguments.get("reduction") == "none":
        return again(ROW_CHUNKS)
    return one_way(count, *shape)


def small(function: str, arguments: dict, gradients: bool = False) -> Plan:
    """The plan of a contrastive loss in our own CUDA kernel; see `of`."""
    if gradients:
        return ON_CHIP_WHOLE
    if not (torch.is_grad_enabled() and _need_gradient(arguments)):
        return ON_CHIP_FORWARD
    return again(ON_CHIP_WHOLE) if arguments["reduction"] == "none" else ON_CHIP


def again(plan: Plan) -> Plan:
    """The same with the gradient in the backward, once the upstream gradients are known."""
    return plan._replace(name=f"forward only, then {plan.name}", products=plan.products + 1)


def _need_gradient(arguments: dict) -> bool:
    tensors = [
        part
        for value in arguments.values()
        for part in (value if isinstance(value, tuple) else (value,))
        if isinstance(part, Tensor)
    ]
    return any(tensor.requires_grad for tensor in tensors)


def one_way(rows: int, candidates: int, dimension: int, itemsize: int, device: str) -> Plan:
    """Of the two plans of three products the one that keeps less."""
    # the sum of float32 (float64) candidates is the gradient itself
    total = candidates * dimension * 4 if itemsize < 4 else 0
    chunk = chunk_rows(candidates, itemsize, device)
    whole = rows <= chunk or rows * candidates * itemsize <= total + chunk * candidates * itemsize
    return WHOLE if whole else ROW_CHUNKS


def contrastive(
    directions: tuple[str, ...],
    consecutive: bool,
    rows: int,
    candidates: int,
    dimension: int,
    itemsize: int,
    device: str,
) -> Plan:
    """The plan of a contrastive loss with its gradient; `consecutive` labels let directions share logits."""
    if set(directions) == {"q2t", "t2q"} and consecutive:
        return PAIR_KEPT if rows * candidates * itemsize <= KEPT_BYTES[device] else PAIR_AGAIN
    if len(directions) == 1:
        return one_way(rows, candidates, dimension, itemsize, device)
    return DIRECTIONS._replace(products=3 * len(directions))


def chunk_rows(candidates: int, itemsize: int, device: str) -> int:
    """Rows of one chunk."""
    return max(CHUNK_ROWS, CHUNK_BYTES[device] // max(1, candidates * itemsize))
