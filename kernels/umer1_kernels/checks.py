"""Argument checks shared by the public functions: one clear error that names the argument."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("mean", "sum", "none")


def check_choice(name: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def check_floating(name: str, value, dims: int) -> None:
    """A floating tensor with `dims` dimensions, or an error that names it."""
    _check_tensor(name, value, dims)
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} has dtype {value.dtype}; it must be a floating tensor")


def check_integer(name: str, value, shape: tuple[int, ...]) -> None:
    """An integer tensor of exactly this shape, or an error that names it."""
    _check_tensor(name, value, len(shape))
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {value.dtype}; it must be an integer tensor")
    check_shape(name, value, shape)


def check_shape(name: str, value, shape: tuple[int, ...]) -> None:
    _check_tensor(name, value, len(shape))
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be {tuple(shape)}")


def check_same(name: str, value: Tensor, other_name: str, other: Tensor, *, dtype: bool) -> None:
    """Same device as another argument and, where asked, the same dtype."""
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device}, {other_name} on {other.device}")
    if dtype and value.dtype != other.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}, {other_name} {other.dtype}")


def check_range(name: str, value: Tensor, low: int, high: int) -> None:
    """Entries lie in [low, high). On the CPU only: elsewhere looking would wait for the device."""
    if value.device.type != "cpu" or value.numel() == 0 or torch.compiler.is_compiling():
        return
    smallest, largest = (int(bound) for bound in value.aminmax())
    if smallest < low or largest >= high:
        wrong = smallest if smallest < low else largest
        raise ValueError(f"{name} holds {wrong}; its entries must be in [{low}, {high})")


def check_no_tangent(function: str, *tensors: Tensor) -> None:
    """The compiled operators have no forward-mode derivative: without this it would silently be 0."""
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                f'{function} has no forward-mode derivative here; use backend="reference"'
            )


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is float64, else float32: what losses and logits are computed in."""
    doubles = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if doubles else torch.float32


def full_precision(tensor: Tensor) -> torch.autocast:
    """Switch autocast off: inside it, float32 products would be made in bfloat16."""
    return torch.autocast(tensor.device.type, enabled=False)


def _check_tensor(name: str, value, dims: int) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a tensor")
    if value.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must have {dims} dimensions")
