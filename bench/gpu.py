"""`make gpu`: build in place, run the GPU tests, run the CUDA suites, write bench/results/<gpu>.json.

Needs one GPU, a CUDA torch, pytest and no network. A step that fails is recorded and the next one runs; a case that takes
its process down (a lost device, a crash, a hang) is recorded as failed and the cases after it run in a new process. The
suites have eight minutes; what they do not reach is recorded as such. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from bench.case import OURS, Case  # noqa: E402
from bench.environment import environment  # noqa: E402
from bench.results import load  # noqa: E402
from bench.runner import failed_row  # noqa: E402
from bench.suites import cases  # noqa: E402

BENCH_SECONDS = 480
SECONDS_PER_CASE = 3  # of timing
LIMIT_PER_CASE = 150  # compilers included; a hang ends the process


def main() -> int:
    if not torch.cuda.is_available():
        print("make gpu: torch sees no CUDA device here", file=sys.stderr)
        return 2
    result = {"environment": environment(), "steps": [], "rows": []}
    _step(result, "build", [sys.executable, "setup.py", "build_ext", "--inplace"])
    # only these files: others may need packages that a GPU machine without a network lacks
    files = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if _has_gpu_tests(path)]
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    _step(result, "tests", [*pytest, *files])
    began = time.monotonic()
    result["rows"] = bench(cases("cuda"), "cuda", BENCH_SECONDS)
    failed = [row for row in result["rows"] if row["variant"] == OURS and row["status"] != "ok"]
    step = {"step": "bench", "ok": not failed, "seconds": round(time.monotonic() - began, 1)}
    result["steps"].append(step)
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")
    return 0 if all(step["ok"] for step in result["steps"]) else 1


def bench(chosen: list[Case], device: str, seconds: float, *options: str) -> list[dict]:
    """Rows of these cases, measured by `python -m bench` in as many processes as it takes."""
    deadline = time.monotonic() + seconds
    left, rows = list(chosen), []
    while left:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            command = [sys.executable, "-m", "bench", "--device", device, "--json", str(file)]
            command += ["--seconds", str(SECONDS_PER_CASE), "--limit", str(LIMIT_PER_CASE)]
            command += ["--case", *(case.name for case in left)]
            why = _bench_process([*command, *options], deadline)
            new = load(file) if file.exists() else []
        rows += new
        done = {row["case"] for row in new}
        left = [case for case in left if case.name not in done]
        if left and time.monotonic() >= deadline:
            return rows + [
                _failed(case, device, f"not reached in {seconds:.0f} s") for case in left
            ]
        if left:  # the first one that has no rows took the process down
            rows.append(_failed(left.pop(0), device, why))
    return rows


def _bench_process(command: list[str], deadline: float) -> str:
    """Run it, showing what it prints; why it ended before its time."""
    seconds = max(1.0, deadline - time.monotonic())
    try:
        run = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "failed: out of time"
    last = (run.stderr.strip().splitlines() or [""])[-1]
    return f"failed: its process ended with status {run.returncode}: {last[:300]}"


def _failed(case: Case, device: str, why: str) -> dict:
    print(f"{case.suite}  {case.name}: {why}", file=sys.stderr)
    return failed_row(case, torch.device(device), why)


def _has_gpu_tests(path: Path) -> bool:
    return "pytest.mark.gpu" in path.read_text()


def _step(result: dict, name: str, command: list[str]) -> None:
    began = time.monotonic()
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output = (run.stdout + run.stderr)[-3000:]
    ok = run.returncode == 0
    step = {"step": name, "ok": ok, "seconds": round(time.monotonic() - began, 1)}
    step["output"] = output.strip().splitlines()[-1:] if ok else output
    result["steps"].append(step)
    print(
        f"{name}: {'ok' if ok else 'FAILED'} in {step['seconds']} s\n{output if not ok else output[-300:]}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
