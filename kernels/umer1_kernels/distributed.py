"""What the `group=` forms need: every process's rows, with gradients that flow back to their owner.

Each process returns the loss of its own rows; the mean over processes is the global loss, so the
averaging of gradients that DistributedDataParallel does gives the global gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# (device type, backend) -> whether it has reduce_scatter_tensor; found out by the first call.
# torch 2.15's gloo has it (for float64, float32, bfloat16 and float16), older ones may not.
_REDUCE_SCATTER: dict[tuple[str, str], bool] = {}


def rank_and_size(group) -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without a group."""
    if group is None:
        return 0, 1
    if not dist.is_initialized():
        raise ValueError("group was given, but torch.distributed is not initialised")
    return dist.get_rank(group), dist.get_world_size(group)


def agree(group, check: Callable[[], Any], alike: Callable[[Any], dict[str, object]]) -> Any:
    """What check() gives, on every process of the group or on none: before the first collective of
    a loss, for whoever raised alone would leave the others in it for ever. One exchange.

    Args:
        check: raises for a wrong argument.
        alike: of what check() gave, whatever decides which collectives follow; by name.

    Raises:
        what check() raised here; ValueError if it raised elsewhere, or something is not alike.
    """
    if group is None:
        return check()
    with failing_together(group):
        result = check()
        own = alike(result)
    found = _exchange(None, own, group)
    for rank, (failure, _) in enumerate(found):
        if failure is not None:
            raise ValueError(f"group: process {rank} failed: {failure}")
    for name in own:
        first = found[0][1].get(name)
        for rank, (_, other) in enumerate(found):
            if other.get(name) != first:
                raise ValueError(
                    f"group: {name} is {first} on process 0 and {other.get(name)} on process {rank}; "
                    "every process must bring the same shapes and options (drop or pad the last "
                    "batch if it is uneven)"
                )
    return result


@contextmanager
def failing_together(group) -> Iterator[None]:
    """For checks before `agree`: if they raise here, the others are told in their `agree`."""
    try:
        yield
    except Exception as error:
        if group is not None:
            _exchange(f"{type(error).__name__}: {error}", {}, group)
        raise


def form(tensor: Tensor) -> str:
    """Shape and dtype, for `agree`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def gather_rows(rows: Tensor, group) -> Tensor:
    """[R, ...] here -> [R * processes, ...] in rank order, differentiable."""
    return rows if group is None else _GatherRows.apply(rows, group)


def gather_values(values: Tensor | None, group) -> Tensor | None:
    """`gather_rows` for ids and masks: no gradient, None stays None."""
    if values is None or group is None:
        return values
    return _all_gather(values.detach(), group)


def sum_over(value: Tensor, group) -> Tensor:
    """The sum of `value` over the processes, without gradient."""
    total = value.detach().clone()
    if group is not None:
        dist.all_reduce(total, group=group)
    return total


def _exchange(failure: str | None, own: dict, group) -> list[tuple[str | None, dict]]:
    """(failure, own) of every process."""
    found: list = [None] * rank_and_size(group)[1]
    dist.all_gather_object(found, (failure, own), group=group)
    return found


class _GatherRows(torch.autograd.Function):
    """Forward: all-gather. Backward: the sum of what all processes hold for this one's rows."""

    @staticmethod
    def forward(ctx, rows: Tensor, group) -> Tensor:
        ctx.group = group
        return _all_gather(rows, group)

    @staticmethod
    def backward(ctx, grad: Tensor):
        # summed in float32 at least: rounded once here, not once per process
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()
        return _reduce_scatter(wide, ctx.group).to(grad.dtype), None


def _all_gather(values: Tensor, group) -> Tensor:
    """[R, ...] -> [R * processes, ...]."""
    # bytes for booleans: gloo and NCCL do not promise a boolean gather
    sent = (
        values.contiguous().view(torch.uint8) if values.dtype == torch.bool else values.contiguous()
    )
    gathered = sent.new_empty(sent.shape[0] * dist.get_world_size(group), *sent.shape[1:])
    dist.all_gather_into_tensor(gathered, sent, group=group)
    return gathered.view(values.dtype)


def _reduce_scatter(values: Tensor, group) -> Tensor:
    """[R * processes, ...] -> the sum over processes of this one's R rows."""
    rank, size = rank_and_size(group)
    count = values.shape[0] // size
    key = (values.device.type, dist.get_backend(group))
    if _REDUCE_SCATTER.get(key, True):
        result = values.new_empty(count, *values.shape[1:])
        try:
            dist.reduce_scatter_tensor(result, values, group=group)
        except (RuntimeError, NotImplementedError) as error:
            # a backend without it says so before anything is sent, on every process alike
            if key in _REDUCE_SCATTER or "support" not in str(error):
                raise
            warnings.warn(
                f"{key[1]} has no reduce_scatter_tensor in this torch ({error}); gradients of "
                f"gathered rows go through all_reduce, which sends twice as much",
                stacklevel=2,
            )
            _REDUCE_SCATTER[key] = False
        else:
            _REDUCE_SCATTER[key] = True
            return result
    total = values.clone()
    dist.all_reduce(total, group=group)
    return total.narrow(0, rank * count, count)
