"""Peak memory of one step beyond its inputs and the results it returns.

On the CPU each variant runs in a process of its own, and what counts is the process: the highest resident size during
the call (VmHWM, reset through /proc/self/clear_refs) over the size before it. So everything is seen, whoever took it:
tensors, scratch of the matrix library, native workspaces, temporary copies. malloc is told to give freed blocks back at
once, so that what is measured is memory in use and not malloc's cache. On CUDA it is the allocator's own peak.

    python -m bench.memory info_nce one-way-4096-bf16 umer1      # one measurement, as JSON
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.case import Case, Problem, Variant, step

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TIMEOUT = 1800
# blocks above 64 KiB come from mmap and go back when freed (glibc otherwise raises the threshold to 32 MiB by itself)
PLAIN_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
}


class Peak(NamedTuple):
    """Bytes beyond inputs and results; None where it cannot be measured. `method` says how or why not."""

    bytes: int | None
    method: str


def process_peak(call) -> tuple[int, dict[str, Tensor]]:
    """Bytes by which the resident size of this process rose at most during the call, and its result.

    Raises:
        OSError: not Linux, or the peak cannot be reset here.
    """
    _give_back_freed_memory()
    before = _status("VmRSS")
    CLEAR.write_text("5")  # the high-water mark starts again from here
    result = call()
    return max(0, _status("VmHWM") - before), result


def in_own_process(case: Case, variant: Variant, *, quick: bool) -> Peak:
    """Peak of a CPU variant, measured by this module run as a script."""
    command = [sys.executable, "-m", "bench.memory", case.suite, case.name, variant.name]
    command += ["--threads", str(torch.get_num_threads())] + (["--quick"] if quick else [])
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Peak(None, f"not measured: no result after {TIMEOUT} s")
    if run.returncode != 0:
        reason = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
        killed = " (out of memory?)" if run.returncode < 0 else ""
        return Peak(None, f"not measured: {reason}{killed}")
    return Peak(json.loads(run.stdout.splitlines()[-1])["bytes"], "resident size of the process")


def on_cuda(variant: Variant, problem: Problem) -> Peak:
    """Peak of the CUDA allocator over what was allocated before, results taken off."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = step(variant.function, problem)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before - result_bytes(result)
    # the replay of a graph allocates nothing, its results included
    return Peak(max(0, peak), "peak of the CUDA allocator")


def measure_here(case: Case, variant_name: str) -> int:
    """Bytes beyond inputs and results of the second full-size call in this process."""
    device = torch.device("cpu")
    problem = case.build(device)
    variant = _named(case, variant_name, device)
    step(
        variant.function, problem
    )  # imports, threads, compilation and the matrix library's kernels are not the call
    peak, result = process_peak(lambda: step(variant.function, problem))
    return max(0, peak - result_bytes(result))


def result_bytes(result: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in result.values())


def _named(case: Case, name: str, device: torch.device) -> Variant:
    known = {variant.name: variant for variant in case.variants(device)}
    if name not in known:
        raise ValueError(f"variant {name!r}: {case.suite} has {', '.join(known)}")
    return known[name]


def _status(field: str) -> int:
    return int(re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1]) * 1024


def _give_back_freed_memory() -> None:
    """Freed memory that malloc still holds would hide what the call takes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # another malloc; the measurement is then a lower bound by what it held back


def main() -> None:
    from bench.suites import cases

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite")
    parser.add_argument("case")
    parser.add_argument("variant")
    parser.add_argument("--quick", action="store_true", help="the case is one of the small ones")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own)")
    arguments = parser.parse_args()
    if PLAIN_MALLOC.items() - os.environ.items():  # malloc reads them when a process starts
        environment = {**os.environ, **PLAIN_MALLOC}
        os.execve(
            sys.executable, [sys.executable, "-m", "bench.memory", *sys.argv[1:]], environment
        )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    [case] = cases("cpu", quick=arguments.quick, suites=[arguments.suite], names=[arguments.case])
    print(json.dumps({"bytes": measure_here(case, arguments.variant)}))


if __name__ == "__main__":
    main()
