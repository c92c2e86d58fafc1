"""Compile what the launch code launches, for a GPU that is not there; print what came out as JSON.

    python tests/kernels/triton/ahead_of_time.py sm_90 [case ...]     # {case: {kernel: measures}}
    python tests/kernels/triton/ahead_of_time.py sm_90 --lengths      # [kernels, and after lengths changed]

Run in a process of its own: with the interpreter in it, Triton does not compile. The real launch
functions get CPU tensors that say they are on a GPU, under a driver that only names the
architecture, so that signatures, alignments and tiles are those of a real launch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from pretended_gpu import OnGpu, pretend
from triton.runtime.jit import JITFunction

from umer1_kernels.backends.triton import (
    compaction,
    decode_attention_kernels,
    decode_pages_kernels,
    hidden_gather_kernels,
    primitives,
    products,
    reward_kernel,
    sampler_kernels,
)
from umer1_kernels.execution.protocol import Block, Pools

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ROWS, COLUMNS, DIM = 96, 4104, 64  # sizes in whole 16 bytes, as vocabularies and dimensions are


def tensor(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype).as_subclass(OnGpu)


def block(dtype, *, rows=ROWS, columns=COLUMNS, dim=DIM, ids=False, live=True) -> Block:
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    whole = {"dtype": torch.int64}
    return Block(
        tensor(rows, dim, dtype=dtype),
        tensor(columns, dim, dtype=dtype),
        tensor(dtype=compute),
        tensor(rows, **whole),
        tensor(rows, **whole) if ids else None,
        tensor(columns, **whole) if ids else None,
        tensor(dtype=torch.int32) if live else None,
    )


def vectors(like: Block) -> tuple[Pools, torch.Tensor, Pools, torch.Tensor]:
    """Pools and a coefficient for rows, and for columns."""
    rows, columns = (like.scale.new_zeros(len(side)) for side in (like.rows, like.candidates))
    return Pools(rows, rows), rows, Pools(columns, columns), columns


def gradient(dtype, *, ids=False, live=True, slope=False, column=False) -> None:
    case = block(dtype, ids=ids, live=live)
    pools, row, column_pools, by_column = vectors(case)
    primitives.TritonPrimitives().gradient(
        case,
        pools,
        row,
        row,
        column_pools if column else None,
        by_column if column else None,
        row if slope else None,
    )


def product(role: str, dtype, *, columns=COLUMNS, dim=DIM) -> None:
    case = block(dtype, columns=columns, dim=dim)
    dz = products.empty_rows(case.rows, ROWS, columns, dtype)
    if role == "logits":
        products.logits(case.rows, case.candidates, live=case.live)
    elif role == "multiply":
        products.multiply(dz, case.candidates, live=case.live)
    elif role == "transpose":
        products.transpose_multiply(dz, case.rows, live=case.live)
    else:
        products.accumulate(tensor(columns, dim), dz, case.rows, live=case.live)


def pools(dtype, *, columns=COLUMNS, ids=False, live=True, by_column=False, moment=False) -> None:
    case = block(dtype, columns=columns, ids=ids, live=live)
    primitives.TritonPrimitives().pools(case, columns=by_column, moment=moment)


def later_chunk() -> None:
    """A chunk of rows after the first adds to the candidates' pools."""
    case = block(torch.bfloat16, live=False)
    logits = products.empty_rows(case.rows, ROWS, COLUMNS, torch.float32)
    primitives.column_pools(logits, case, vectors(case)[2], first_row=128)


def score(dtype) -> None:
    flags = tensor(64, dtype=torch.bool)
    reward_kernel.scores(tensor(64, 64, dtype=dtype), flags, flags, tensor(dtype=dtype), 8, 0)


def gather(dtype, last: bool) -> None:
    bounds = tensor(8, dtype=torch.int64)
    ids = tensor(96, dtype=torch.int64)
    hidden_gather_kernels.gather(tensor(96, 64, dtype=dtype), ids, bounds, bounds, 7, last, True)


def scatter(dtype) -> None:
    index = tensor(8, dtype=torch.int64)
    hidden_gather_kernels.scatter(
        tensor(8, 64), tensor(8, 64), index, tensor(8), 96, dtype, normalize=True
    )


def step(dtype) -> None:
    ids, flags = tensor(8, dtype=torch.int64), tensor(8, dtype=torch.bool)
    states = tensor(8, 64, dtype=dtype)
    hidden_gather_kernels.step_(tensor(8, 64), flags, states, ids, ids, flags, 7, True)


def decode(dtype, *, heads=12, kv_heads=2, size=128, rows=8, prefixes=2, pages=(4, 4)) -> None:
    """`pages` of the prefix table and of the suffix table; a segment without any is not launched."""
    whole = {"dtype": torch.int32}
    query, store = (
        tensor(rows, heads, size, dtype=dtype),
        tensor(16, kv_heads, 64, size, dtype=dtype),
    )
    prefix = (tensor(prefixes, pages[0], **whole), tensor(prefixes, **whole), tensor(rows, **whole))
    groups = decode_pages_kernels.group(prefix[2], prefixes, 64 * kv_heads // heads)
    suffix = (tensor(rows, pages[1], **whole), tensor(rows, **whole))
    decode_attention_kernels.attend(query, store, store, prefix, suffix, 0.1, 256, *groups)


def append(dtype, *, tokens=8, by_row=False) -> None:
    rows, store = tensor(tokens, 2, 128, dtype=dtype), tensor(16, 2, 64, 128, dtype=dtype)
    places = tensor(tokens, dtype=torch.int32)
    table = tensor(tokens, 4, dtype=torch.int32)
    decode_pages_kernels.append(rows, rows, store, store, table, places, places if by_row else None)


def sample(dtype, truncated: bool, *, rows=8, tokens=151_936) -> None:
    whole, number = tensor(rows, dtype=torch.int64), tensor(rows)
    logits = tensor(rows, tokens, dtype=dtype)
    sampler_kernels.sample(logits, whole, whole, number, number, whole, whole, truncated)


HALF, FULL, DOUBLE = torch.bfloat16, torch.float32, torch.float64
CASES: dict[str, Callable[[], object]] = {
    "logits bfloat16": lambda: product("logits", HALF),
    "logits float16": lambda: product("logits", torch.float16),
    "logits float32": lambda: product("logits", FULL),
    "logits odd": lambda: product("logits", HALF, columns=199, dim=63),
    "multiply bfloat16": lambda: product("multiply", HALF),
    "multiply float32": lambda: product("multiply", FULL),
    "multiply odd": lambda: product("multiply", HALF, columns=199, dim=63),
    "transpose bfloat16": lambda: product("transpose", HALF),
    "accumulate bfloat16": lambda: product("accumulate", HALF),
    "accumulate float32": lambda: product("accumulate", FULL),
    "accumulate odd": lambda: product("accumulate", HALF, columns=199, dim=63),
    "row pools": lambda: pools(HALF, live=False),
    "row pools live": lambda: pools(HALF),
    "row pools moment": lambda: pools(HALF, moment=True),
    "row pools short": lambda: pools(HALF, columns=1000, live=False),
    "row pools ids": lambda: pools(HALF, ids=True, live=False),
    "row pools float64": lambda: pools(DOUBLE, live=False, moment=True),
    "column pools": lambda: pools(HALF, by_column=True, live=False),
    "column pools ids": lambda: pools(HALF, by_column=True, ids=True, live=False),
    "column pools later": later_chunk,
    "gradient": lambda: gradient(HALF, live=False),
    "gradient live": lambda: gradient(HALF),
    "gradient slope": lambda: gradient(HALF, slope=True),
    "gradient column": lambda: gradient(HALF, ids=True, live=False, column=True),
    "gradient float32": lambda: gradient(FULL, live=False),
    "gradient float64": lambda: gradient(DOUBLE, live=False, column=True),
    "compact": lambda: compaction.compact(tensor(3000, dtype=torch.bool)),
    "reward": lambda: score(FULL),
    "reward float64": lambda: score(DOUBLE),
    "gather last": lambda: gather(HALF, last=True),
    "gather first": lambda: gather(FULL, last=False),
    "gather float64": lambda: gather(DOUBLE, last=True),
    "scatter": lambda: scatter(HALF),
    "step": lambda: step(HALF),
    "decode prefix bfloat16": lambda: decode(HALF, pages=(4, 0)),
    "decode suffix bfloat16": lambda: decode(HALF, pages=(0, 4)),
    "decode seven heads bfloat16": lambda: decode(HALF, heads=28, kv_heads=4, pages=(4, 0)),
    "decode 64 bfloat16": lambda: decode(HALF, size=64, pages=(4, 0)),
    "decode odd": lambda: decode(HALF, heads=3, kv_heads=3, size=80),
    "decode prefix float32": lambda: decode(FULL, pages=(4, 0)),
    "decode suffix float32": lambda: decode(FULL, pages=(0, 4)),
    "append": lambda: append(HALF),
    "append by row": lambda: append(HALF, by_row=True),
    "sample bfloat16": lambda: sample(HALF, False),
    "sample float32": lambda: sample(FULL, False),
    "sample part": lambda: sample(HALF, True),
}


def compiled() -> dict[str, dict]:
    """Every kernel compiled so far in this process: {key: kernel}."""
    return {
        f"{function.fn.__name__} {key}": kernel
        for module in _kernel_modules()
        for function in vars(module).values()
        if isinstance(function, JITFunction)
        for caches in function.device_caches.values()
        for key, kernel in caches[0].items()
    }


def measure(kernel) -> dict[str, int]:
    """What the machine code uses; stack bytes are spilled registers."""
    ptx = kernel.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared": kernel.metadata.shared,
        "fused_multiply_adds": kernel.metadata.enable_fp_fusion,
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "tcgen05": len(re.findall(r"tcgen05\.mma", ptx)),
        "mma": len(re.findall(r"mma\.sync", ptx)),
        "tma_loads": len(re.findall(r"cp\.async\.bulk\.tensor", ptx)),
        "async_copies": len(re.findall(r"cp\.async\.cg", ptx)),
        "loads_16_bytes": len(re.findall(r"ld\.global[.\w:]*\.v(?:4\.b32|2\.b64)", ptx)),
        "stores_16_bytes": len(re.findall(r"st\.global[.\w:]*\.v(?:4\.b32|2\.b64)", ptx)),
    }


def _kernel_modules():
    names = (
        "column_pools compaction decode_attention_kernels decode_pages_kernels gradient "
        "hidden_gather_kernels product_kernel reward_kernel sampler_cut sampler_kernels"
    )
    import umer1_kernels.backends.triton as package

    return [getattr(package, name) for name in (*names.split(), "row_pools")]


def launch_all(rows: int, sequences: int, size: int) -> None:
    """Whatever has a length that changes from call to call, with this length; in float32."""
    case = block(FULL, rows=rows, columns=1032, ids=True)
    pools, row, column_pools, column = vectors(case)
    backend = primitives.TritonPrimitives()
    backend.pools(case, columns=True, moment=True)
    dz = backend.gradient(case, pools, row, row, column_pools, column)
    backend.multiply(dz, case.candidates, live=case.live)
    backend.accumulate(tensor(1032, DIM), dz, case.rows, live=case.live)
    backend.compact(tensor(rows, dtype=torch.bool))
    bounds, ids = tensor(sequences, dtype=torch.int64), tensor(rows, dtype=torch.int64)
    found = hidden_gather_kernels.gather(case.rows, ids, bounds, bounds, rows, True, True)
    hidden_gather_kernels.scatter(*(found[k] for k in (0, 0, 1, 2)), rows, FULL, True)
    flags = tensor(rows, dtype=torch.bool)
    hidden_gather_kernels.step_(tensor(rows, DIM), flags, case.rows, ids, ids, flags, rows, True)
    flags = tensor(sequences * size, dtype=torch.bool)
    similarity = tensor(sequences * size, sequences * size)
    reward_kernel.scores(similarity, flags, flags, tensor(), size, 0)
    decode(HALF, rows=rows, prefixes=sequences, pages=(size, size))
    append(HALF, tokens=rows, by_row=True)
    sample(HALF, True, rows=rows)


def main() -> None:
    architecture, *names = sys.argv[1:]
    pretend(architecture)
    if names == ["--lengths"]:
        launch_all(96, 8, 8)
        before = len(compiled())
        for rows, sequences, size in ((1, 1, 1), (16, 3, 8), (17, 3, 5), (33, 16, 16)):
            launch_all(rows, sequences, size)
        json.dump([before, len(compiled())], sys.stdout)
        return
    result, seen = {}, set()
    for name in names or CASES:
        CASES[name]()
        kernels = compiled()
        for key in kernels.keys() - seen:
            result.setdefault(name, {})[key.split()[0]] = measure(kernels[key])
        seen = set(kernels)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
