"""`make gpu`: build in place, run the GPU tests, run the benches, write bench/results/<gpu>.json.

Needs one GPU, a CUDA torch, pytest and no network. A step that fails is recorded and the next one runs; the exit
status is 1 if any failed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from bench.environment import environment  # noqa: E402


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
    try:
        from bench.gpu_rows import rows

        for row in rows():
            result["rows"].append(row)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        result["steps"].append(
            {"step": "bench", "ok": True, "seconds": round(time.monotonic() - began, 1)}
        )
    except (
        Exception
    ) as error:  # recorded, so that one broken bench does not lose the others' results
        result["steps"].append({"step": "bench", "ok": False, "output": repr(error)})
        print(f"bench: {error!r}", file=sys.stderr)
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")
    return 0 if all(step["ok"] for step in result["steps"]) else 1


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
