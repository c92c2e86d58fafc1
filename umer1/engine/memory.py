"""The memory behind the pages: how much there may be, and the tensors."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from umer1.engine.pages import PAGE_LENGTH, pages_for
from umer1.model.config import ModelConfig
from umer1.model.qwen2_vl import Qwen2VL

CUDA_SHARE = 0.9  # of what is free, less the activations
CPU_SHARE = 0.4  # other programs live there too
SLOT_TOKENS = 8192  # memory beyond this much per slot is not taken unless it is asked for


class KVMemory:
    """`key` and `value`: [layers, pages + 1, key heads, PAGE_LENGTH, head size]; page 0 is scratch.

    In memory a page's layers lie together. All zero at first: whatever a page held before is finite.
    On the CPU the system zeroes memory as it is first written, so unused pages cost nothing.
    """

    def __init__(self, config: ModelConfig, pages: int, dtype: torch.dtype, device: torch.device):
        shape = (
            pages + 1,
            2 * config.num_hidden_layers,
            config.num_key_value_heads,
            PAGE_LENGTH,
            config.head_dim,
        )
        make = _lazy_zeros if device.type == "cpu" else torch.zeros
        layers = make(shape, dtype=dtype, device=device).transpose(0, 1)
        self.key, self.value = layers[0::2], layers[1::2]


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page, keys and values of all layers."""
    numbers = config.num_hidden_layers * config.num_key_value_heads * PAGE_LENGTH * config.head_dim
    return 2 * numbers * dtype.itemsize


def page_count(
    model: Qwen2VL, wanted: int | None, prefill_tokens: int, slots: int
) -> tuple[int, str]:
    """How many pages there may be, and in words where the number comes from.

    wanted: bytes; None: as much as the slots can use. Either way no more than is free. Raises
    ValueError if that is not a page.
    """
    config, dtype, device = model.config, model.dtype, model.device
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the caching allocator holds and does not use is free too
        free = torch.cuda.mem_get_info(device)[0]
        reserve = activation_bytes(config, dtype, prefill_tokens, slots)
        budget = int(free * CUDA_SHARE) - reserve
        source = f"{CUDA_SHARE:.0%} of {gib(free)} free on {device} less {gib(reserve)} to work in"
    else:
        free = available_memory()
        budget = int(free * CPU_SHARE)
        source = f"{CPU_SHARE:.0%} of {gib(free)} of free main memory"
    size = page_bytes(config, dtype)
    if wanted is None:
        useful = max(slots * SLOT_TOKENS, 2 * config.max_position_embeddings)
        wanted, asked = pages_for(useful) * size, f"{slots} slots can use"
    else:
        asked = "kv_memory asks for"
    if wanted < budget:
        budget, source = wanted, f"what {asked}, within {source}"
    pages = budget // size - 1  # one is scratch
    if pages < 1:
        raise ValueError(
            f"kv_memory: {gib(max(budget, 0))} ({source}) hold no two pages of {gib(size)}"
        )
    return pages, f"{gib(pages * size)} of keys and values, {source}"


def activation_bytes(
    config: ModelConfig, dtype: torch.dtype, prefill_tokens: int, slots: int
) -> int:
    """An upper estimate of what a prefill and a decode step hold beside weights and pages."""
    vision = config.vision
    # a merged cell stands for merge**2 patches, each with its tower-wide rows
    tower = vision.spatial_merge_size**2 * (8 + 2 * vision.mlp_ratio) * vision.embed_dim
    per_token = 8 * config.hidden_size + 4 * config.intermediate_size + tower
    logits = 4 * slots * config.vocab_size * 4  # float32, and the sampler's copies
    return prefill_tokens * per_token * dtype.itemsize + logits


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy that the host does not wait for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def available_memory() -> int:
    """Bytes of main memory that can be taken without swapping, the container's limit counted in."""
    limits = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    maximum, current = (
        "".join(_lines(f"/sys/fs/cgroup/memory.{name}")).strip() for name in ("max", "current")
    )
    if maximum.isdigit() and current.isdigit():
        limits.append(max(int(maximum) - int(current), 0))
    return min(limits) if limits else 4 << 30  # a system that does not say


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory that the system hands out in its smallest pages, zeroed, as they are first touched:
    torch.zeros would write them all, and numpy asks for huge ones."""
    size = math.prod(shape) * dtype.itemsize
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, size, flags=private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel that was built without huge pages refuses the advice
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
