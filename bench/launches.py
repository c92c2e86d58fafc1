"""What one step of every loss costs the host of a GPU, counted without one: the kernels run in Triton's interpreter.

    TRITON_INTERPRET=1 python -m bench.launches      # {"suite case": {"launches": …, "syncs": …, "aten_products": …}}

`launches` are Triton's; `syncs` count what, outside the kernels, would make the host wait for the device.

The variable must be set before triton is imported, so `counted()` runs this module in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 600
GRID = "a grid in the interpreter"
INTERPRETER = "triton.runtime.interpreter"
READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__")
WAITS = ("aten::nonzero", "aten::equal")
# these look at values only after asking whether the tensor is on a CPU
ON_CPU_ALONE = ("check_range", "scale_", "_unfold")


def counted(suites: list[str] | None = None) -> tuple[dict[str, dict[str, int]], str]:
    """Counts by "suite case", or {} and the reason why there are none."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "bench.launches", *(suites or ())]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    if run.returncode != 0:
        return {}, (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
    return json.loads(run.stdout.splitlines()[-1]), ""


def main() -> None:
    sys.path.insert(0, str(ROOT / "kernels"))
    import torch

    from bench.case import OURS, step
    from bench.counts import count
    from bench.suites import cases

    device, found = torch.device("cpu"), {}
    for case in cases("cpu", quick=True, suites=sys.argv[1:] or None):
        if not (case.counted and case.compilable):
            continue
        small = case.small()
        if hasattr(small, "dim"):
            small = replace(small, dim=32)
        problem = small.build(device)
        [ours] = (variant for variant in small.variants(device) if variant.name == OURS)
        function = ours.function
        launches, syncs = launches_and_syncs(lambda f=function, p=problem: step(f, p))
        found[f"{case.suite} {case.name}"] = {
            "launches": launches,
            "syncs": syncs,
            "aten_products": count(lambda f=function, p=problem: step(f, p)).products,
        }
    print(json.dumps(found))


def launches_and_syncs(call: Callable[[], object]) -> tuple[int, int]:
    """Grids that Triton's interpreter runs during the call, and how often anything outside them waits for a value."""
    from torch.profiler import ProfilerActivity, profile, record_function
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def named(self, *arguments, **keywords):
        with record_function(GRID):
            return run(self, *arguments, **keywords)

    GridExecutor.__call__ = named
    try:
        with _reads() as reads, profile(activities=[ProfilerActivity.CPU]) as profiler:
            call()
    finally:
        GridExecutor.__call__ = run
    events = profiler.profiler.kineto_results.events()
    grids = [(each.start_ns(), each.end_ns()) for each in events if each.name() == GRID]
    waits = [each.start_ns() for each in events if each.name() in WAITS]
    outside = [
        moment for moment in waits if not any(start <= moment <= end for start, end in grids)
    ]
    return len(grids), len(reads) + len(outside)


@contextmanager
def _reads() -> Iterator[list[str]]:
    """Functions in which Python reads a tensor's value, outside the interpreter and beside those for CPU tensors."""
    import torch

    found, before = [], {name: getattr(torch.Tensor, name) for name in READS}

    def watched(name: str):
        def read(self, *arguments, **keywords):
            caller = sys._getframe(1)
            while caller and caller.f_code.co_name in ("<genexpr>", "<listcomp>"):
                caller = caller.f_back
            frame, inside = caller, False
            while frame and not inside:
                inside, frame = frame.f_globals.get("__name__", "") == INTERPRETER, frame.f_back
            if not inside and caller.f_code.co_name not in ON_CPU_ALONE:
                found.append(caller.f_code.co_name)
            return before[name](self, *arguments, **keywords)

        return read

    for name in READS:
        setattr(torch.Tensor, name, watched(name))
    try:
        yield found
    finally:
        for name, method in before.items():
            setattr(torch.Tensor, name, method)


if __name__ == "__main__":
    main()
