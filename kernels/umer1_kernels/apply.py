"""apply_umer1_kernels: the linear cross-entropy inside a transformers model, without its logits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from umer1_kernels.linear_loss import linear_cross_entropy

MODELS = ("Qwen2VLForConditionalGeneration", "Qwen2ForCausalLM")
LOSS = "ForCausalLMLoss"  # the loss of transformers that linear_cross_entropy stands in for
MARK = "_umer1_kernels"  # on the functions put in place
PENDING = "_umer1_loss"  # on the head, while the model's forward wants a loss from it


def apply_umer1_kernels(model: nn.Module, strict: bool = True) -> KernelReport:
    """Make `model(labels=...)` take its loss from hidden states: no logits are made.

    Patches this instance (the forward of the model and of its `lm_head`), no class and no module of
    transformers, so other models stay as they are and nothing has to be applied before the model is
    made. Apply it before accelerate, a Trainer or DistributedDataParallel take the model.

    With labels the loss is transformers' own: shifted labels (or `shift_labels`), `ignore_index`
    -100, the mean over tokens that count, or sum / `num_items_in_batch` where a Trainer passes it
    for gradient accumulation. What changes:
        - `logits` of the result is None. Without labels, or with `logits_to_keep`, the model's own
          forward runs and makes them (a Trainer's compute_metrics needs `report.restore()`).
        - Logits accumulate in float32 also for bfloat16 weights, instead of being rounded first.
          Inside autocast hidden states and weight take its dtype, as for any linear layer.
        - A batch without a token that counts gives 0 instead of nan.

    The loss is made in the head's own call, so hooks that gather its weight (DeepSpeed ZeRO-3,
    FSDP) have run.

    Args:
        model: a transformers Qwen2VLForConditionalGeneration or Qwen2ForCausalLM, or a module that
            holds one, such as a PeftModel.
        strict: raise if anything was skipped, leaving the model as it was.

    Returns:
        KernelReport: `patched` and `skipped` by module name, with what runs now or the reason; it
        prints, and `restore()` undoes the patch. Applying twice changes nothing.

    Raises:
        ValueError: strict, and something was skipped; the message names it.
    """
    found = [
        (name or "model", module)
        for name, module in model.named_modules()
        if _transformers_class(module)
    ]
    report = KernelReport()
    for name, module in found:
        reason = _obstacle(module)
        if reason:
            report.skipped[name] = reason
            continue
        if not _is_ours(module):
            module.forward = MethodType(_model_forward(type(module).forward), module)
            module.lm_head.forward = MethodType(_head_forward, module.lm_head)
        report.patched[name] = (
            f"{_transformers_class(module)}.forward(labels=): linear_cross_entropy, no logits"
        )
        report.modules.append(module)
    if not found:
        report.skipped["model"] = f"{type(model).__name__} holds none of {', '.join(MODELS)}"
    if strict and report.skipped:
        report.restore()
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
        raise ValueError(f"apply_umer1_kernels could not patch {reasons}")
    return report


@dataclass(slots=True)
class KernelReport:
    """What was patched and what was not."""

    patched: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list, repr=False)

    def restore(self) -> None:
        """Give the patched models their own forward back; once is enough.

        Raises:
            RuntimeError: something else has replaced the forward since; undo that first.
        """
        for name, module in zip(self.patched, self.modules, strict=True):
            for part in (module, module.lm_head):
                if "forward" in vars(part) and not _is_ours(part):
                    raise RuntimeError(
                        f"{name}: forward of {type(part).__name__} was replaced after "
                        f"apply_umer1_kernels; undo that first"
                    )
                vars(part).pop("forward", None)

    def __str__(self) -> str:
        lines = [f"patched  {name}: {what}" for name, what in self.patched.items()]
        return "\n".join(
            lines + [f"skipped  {name}: {reason}" for name, reason in self.skipped.items()]
        )


class _Pending(NamedTuple):
    """What the head needs to return a loss in place of logits."""

    labels: Tensor  # [B, L]
    shift_labels: Tensor | None  # [B, L]: labels already moved one to the left
    ignore_index: int
    num_items: Tensor | int | None


@functools.cache
def _model_forward(original: Callable) -> Callable:
    """forward of a model class with the loss made by its head."""
    names = list(inspect.signature(original).parameters)[1:]

    @functools.wraps(original)  # a Trainer reads the signature to know which columns to keep
    def forward(self, *args, **keywords):
        keywords.update(zip(names, args))
        keep = keywords.get("logits_to_keep", 0)
        if keywords.get("labels") is None or not isinstance(keep, int) or keep != 0:
            return original(self, **keywords)
        pending = _Pending(
            keywords.pop("labels"),
            keywords.get("shift_labels"),
            keywords.get("ignore_index", -100),
            keywords.get("num_items_in_batch"),
        )
        setattr(self.lm_head, PENDING, pending)
        try:
            outputs = original(self, **keywords)
        finally:
            delattr(self.lm_head, PENDING)
        if isinstance(outputs, tuple):  # return_dict=False: (loss, ...) already
            return outputs
        others = {name: value for name, value in outputs.items() if name != "logits"}
        return type(outputs)(loss=outputs.logits, **others)

    setattr(forward, MARK, True)
    return forward


def _head_forward(self: nn.Linear, hidden: Tensor) -> Tensor:
    """Logits, or the loss where the model's forward asked for it."""
    pending = getattr(self, PENDING, None)
    if pending is None:
        return type(self).forward(self, hidden)
    weight = self.weight
    if type(weight).__name__ == "DTensor":
        raise ValueError(
            "lm_head.weight is a sharded DTensor inside the head's call; apply fully_shard to "
            "lm_head or to the whole model, or leave the head whole"
        )
    target = pending.shift_labels
    if target is None:
        padded = nn.functional.pad(pending.labels, (0, 1), value=pending.ignore_index)
        target = padded[..., 1:]
    device = hidden.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    loss = linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        weight,
        target.reshape(-1).to(device),
        ignore_index=pending.ignore_index,
        reduction="mean" if pending.num_items is None else "sum",
    )
    if pending.num_items is None:
        return loss
    items = pending.num_items
    return loss / (items.to(device) if isinstance(items, Tensor) else items)


setattr(_head_forward, MARK, True)


def _transformers_class(module: nn.Module) -> str | None:
    """Its name if the module is, or derives from, a class of MODELS."""
    names = (c.__name__ for c in type(module).__mro__ if c.__module__.startswith("transformers."))
    return next((name for name in names if name in MODELS), None)


def _is_ours(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return getattr(getattr(forward, "__func__", None), MARK, False)


def _obstacle(model: nn.Module) -> str | None:
    """Why this model cannot be patched, in words."""
    if _is_ours(model) and _is_ours(model.lm_head):
        return None
    forward, head = type(model).forward, model.lm_head
    source = inspect.unwrap(forward).__module__
    loss = getattr(model.loss_function, "__name__", repr(model.loss_function))
    missing = {"labels", "logits_to_keep"} - set(inspect.signature(forward).parameters)
    for part, name in ((model, type(model).__name__), (head, "lm_head")):
        if "forward" in vars(part):
            return f"forward of {name} is replaced on the instance already; apply this first"
    if not source.startswith("transformers."):
        return f"its forward comes from {source}, not from transformers"
    if missing:
        return f"its forward has no argument {' or '.join(sorted(missing))}"
    if loss != LOSS:
        return f"its loss is {loss}, not {LOSS}"
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        kind = f"{type(head).__module__}.{type(head).__qualname__}"
        return f"lm_head is a {kind}, not a plain torch.nn.Linear"
    if head.bias is not None:
        return "lm_head has a bias"
    if not head.weight.is_floating_point():
        return f"lm_head.weight has dtype {head.weight.dtype}"
    return None
