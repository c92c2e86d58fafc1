"""What to profile: a workload and its sizes, as `umer1 profile` takes them. Imports no torch."""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import dataclass
from typing import NamedTuple

DTYPES = ("float32", "bfloat16")
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
TARGETS = ("loss", "prefill", "decode", "sft-step", "rl-step")


class Size(NamedTuple):
    """One name of --shape: its default, what it counts, and between what it must be."""

    default: int
    meaning: str
    least: int = 1
    most: int | None = None


_HEAD = {
    "T": Size(256, "tokens"),
    "H": Size(896, "hidden size"),
    "V": Size(32768, "vocabulary", least=2),
}
_LIVE = Size(100, "percent of the tokens that count", most=100)
LOSS_SIZES: dict[str, dict[str, Size]] = {
    "info_nce": {
        "N": Size(1024, "pairs", least=2),
        "D": Size(1536, "dimension"),
        "directions": Size(2, "1: queries to targets, 2: both", most=2),
    },
    "dual_info_nce": {
        "N": Size(1024, "pairs", least=2),
        "D": Size(1536, "dimension"),
        "directions": Size(2, "1: queries to targets, 2: both", most=2),
        "align": Size(0, "1: with the blocks that align both kinds", least=0, most=1),
    },
    "linear_cross_entropy": {**_HEAD, "live": _LIVE._replace(default=30)},
    "linear_logprob": {**_HEAD, "live": _LIVE._replace(default=40)},
    "grpo_loss": {**_HEAD, "live": _LIVE._replace(default=40)},
    "group_reward": {
        "N": Size(16, "pairs", least=2),
        "G": Size(8, "rollouts of a side"),
        "D": Size(1536, "dimension"),
    },
    "gather_hidden": {
        "B": Size(32, "sequences"),
        "L": Size(1024, "positions of each"),
        "H": Size(1536, "hidden size"),
    },
}
_PROMPTS = {
    "prompts": Size(8, "prompts together"),
    "tokens": Size(64, "text tokens of each"),
    "image": Size(16, "visual tokens of each, 0 for none", least=0),
}
TARGET_SIZES: dict[str, dict[str, Size]] = {
    "prefill": _PROMPTS,
    "decode": {
        **_PROMPTS,
        "samples": Size(2, "rollouts of each prompt"),
        "new": Size(32, "tokens written by each rollout", least=2),
    },
    "sft-step": {
        "pairs": Size(16, "pairs of the batch", least=2),
        "tokens": Size(48, "text tokens of each prompt", least=2),
        "image": Size(4, "visual tokens of each query, 0 for none", least=0),
        "response": Size(16, "tokens of each response", least=3),
    },
    "rl-step": {
        "pairs": Size(4, "pairs of the batch", least=2),
        "generations": Size(4, "rollouts of each side", least=2),
        "new": Size(24, "most tokens of a rollout", least=2),
    },
}
# "": what the product takes by itself on that device
DEFAULT_DTYPE = {"loss": "bfloat16", "prefill": "", "decode": "", "sft-step": "float32", "rl-step": "float32"}  # fmt: skip
FLOAT32_LOSSES = ("group_reward",)


@dataclass(frozen=True, slots=True)
class Request:
    """`umer1 profile <target>` with its options; made by `read`, which checks them."""

    target: str
    sizes: dict[str, int]
    dtype: str
    loss: str
    device: str
    backend: str
    model: str

    @property
    def title(self) -> str:
        return self.loss if self.target == "loss" else self.target

    def shape(self) -> str:
        """The sizes and the dtype as --shape takes them."""
        parts = [f"{name}={value}" for name, value in self.sizes.items()]
        return ",".join([*parts, *([f"dtype={self.dtype}"] if self.dtype else [])])

    def arguments(self) -> list[str]:
        """The command line that asks for the same."""
        given = [self.target, "--shape", self.shape(), "--device", self.device]
        if self.target == "loss":
            return [*given, "--loss", self.loss, "--backend", self.backend]
        return [*given, "--model", self.model]

    def command(self) -> str:
        return shlex.join(["umer1", "profile", *self.arguments()])


def read(
    target: str,
    *,
    shape: str = "",
    loss: str = "info_nce",
    device: str = "cpu",
    backend: str = "auto",
    model: str = "tiny",
) -> Request:
    """A checked request.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """
    _check_choice("target", target, TARGETS)
    _check_choice("--loss", loss, tuple(LOSS_SIZES))
    _check_choice("--device", device, ("cpu", "cuda"))
    known = LOSS_SIZES[loss] if target == "loss" else TARGET_SIZES[target]
    what = loss if target == "loss" else target
    sizes = {name: size.default for name, size in known.items()}
    dtype = DEFAULT_DTYPE[target]
    if target == "loss" and loss in FLOAT32_LOSSES:
        dtype = "float32"
    for part in filter(None, (part.strip() for part in shape.split(","))):
        name, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise ValueError(f"--shape {part}: wants name=value")
        if name == "dtype":
            dtype = SHORT_DTYPES.get(value, value)
            _check_choice("--shape dtype", dtype, DTYPES)
        elif name not in known:
            raise ValueError(
                f"--shape {part}: {what} has no size {name!r}; it has {', '.join(known)}, dtype"
            )
        else:
            sizes[name] = _number(part, value, known[name])
    return Request(target, sizes, dtype, loss, device, backend, model)


def shape_help() -> str:
    """Every size of every workload with its default and what it counts, in lines of 76 columns."""
    lines = []
    named = [(f"--loss {name}", sizes) for name, sizes in LOSS_SIZES.items()]
    for name, sizes in [*named, *TARGET_SIZES.items()]:
        parts = [f"{key}={size.default} ({size.meaning})" for key, size in sizes.items()]
        text = f"{name}: {', '.join(parts)}"
        lines += textwrap.wrap(text, 76, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value}: it must be one of {', '.join(choices)}")


def _number(part: str, value: str, size: Size) -> int:
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"--shape {part}: {value!r} is not a whole number") from None
    if number < size.least or (size.most is not None and number > size.most):
        most = "" if size.most is None else f" and at most {size.most}"
        raise ValueError(f"--shape {part}: wants at least {size.least}{most} ({size.meaning})")
    return number
