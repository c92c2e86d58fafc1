"""How many Triton kernels one step of every loss launches, counted without a GPU: the kernels run in Triton's interpreter.

    TRITON_INTERPRET=1 python -m bench.launches      # JSON: {"suite case": {"launches": ..., "aten_products": ...}}

The variable must be set before triton is imported, so `counted()` runs this module in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 600


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
        launches = _launches(lambda f=function, p=problem: step(f, p))
        found[f"{case.suite} {case.name}"] = {
            "launches": launches,
            "aten_products": count(lambda f=function, p=problem: step(f, p)).products,
        }
    print(json.dumps(found))


def _launches(call: Callable[[], object]) -> int:
    """Grids that Triton's interpreter runs during the call."""
    from triton.runtime.interpreter import GridExecutor

    run, number = GridExecutor.__call__, 0

    def counting(self, *arguments, **keywords):
        nonlocal number
        number += 1
        return run(self, *arguments, **keywords)

    GridExecutor.__call__ = counting
    try:
        call()
    finally:
        GridExecutor.__call__ = run
    return number


if __name__ == "__main__":
    main()
