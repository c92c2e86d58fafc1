"""The other ways to compute a loss: eager, compiled, rows compacted by hand, other people's packages.

`eager` makes its product in the inputs' dtype and the loss in float32, `eager-bf16` all of it in bfloat16. Both round
logits to bfloat16 where the inputs are: that, not the softmax, is what makes their gradients 3 to 7 percent wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from bench.case import Variant


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile for one shape, compiled at the first call."""
    return torch.compile(function, dynamic=False)


def eager_and_compiled(forms: dict[str, Callable[..., Tensor]]) -> list[Variant]:
    """`forms`: suffix ("" or "-bf16" ...) -> function."""
    variants = []
    for suffix, function in forms.items():
        variants.append(Variant("eager" + suffix, "eager", function))
        variants.append(Variant("compile" + suffix, "compile", compiled(function)))
    return variants


def package(module: str, attribute: str) -> tuple[Callable, str]:
    """An attribute of an optional package as a function that imports it when called, and why it cannot ("" if it can)."""
    name = module.split(".")[0]
    if find_spec(name) is None:
        return _missing, f"{name.replace('_', '-')} is not installed (pip install 'umer1[peers]')"
    return lambda: getattr(import_module(module), attribute), ""


def _missing():
    raise ImportError("this peer is not installed (pip install 'umer1[peers]')")
