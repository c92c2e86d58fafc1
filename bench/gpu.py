"""`make gpu`, `make gpu PART=kernels`: build in place, test and measure on this GPU -> bench/results/<gpu>.json.

Needs one GPU, a CUDA torch, pytest and no network. Everything ends inside nine minutes: what does not fit is recorded as
not reached. Each step runs in processes of its own, and the file is written after each, so that a crash, a hang or a
kill costs one step; what other parts measured on the same GPU with the same sources stays in it. What is not installed
is skipped by name. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from bench.gpu_cases import failures, in_turn, measure  # noqa: E402
from bench.gpu_file import GpuFile, summary  # noqa: E402
from bench.steps import Deadline, Step, run, step  # noqa: E402
from bench.suites import MODULES, cases  # noqa: E402

SECONDS = (
    525  # of the nine minutes, what is left for steps; the rest is starting, ending and writing
)
BUILD_SECONDS, TEST_SECONDS, SANITIZE_SECONDS = 240, 150, 45
TESTS_AT_ONCE = 4
# two billion weights are made four times over before the first step
TRAINING = ("--seconds", "20", "--limit", "300")
NO_TESTS = 5  # pytest's exit status when nothing was selected
PYTEST = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider"]


@dataclass(slots=True)
class Suite:
    """What every part gets: where results go, and until when."""

    file: GpuFile
    deadline: Deadline


def main(argv: list[str] | None = None) -> int:
    """0 if everything that ran was good, 1 if not, 2 if there is no GPU or no such part."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    chosen = parser.parse_args(argv).parts
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        known = ", ".join(PARTS)
        print(f"make gpu PART={unknown[0]}: no such part; there are {known}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("make gpu: torch sees no CUDA device here", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # steps end with us
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    suite = Suite(GpuFile(ROOT / "bench" / "results" / f"{name}.json"), Deadline(SECONDS))
    good = carry_out(suite, [part for part in PARTS if not chosen or part in chosen])
    print(summary(suite.file))
    print(f"wrote {suite.file.path.relative_to(ROOT)}")
    return 0 if good else 1


def carry_out(suite: Suite, parts: list[str]) -> bool:
    """The build, then these parts; whether all that ran was good."""
    steps = []
    for part in (build, *(PARTS[name] for name in parts)):
        for made in part(suite):
            print(f"{made.step}: {made.status} in {made.seconds:.0f} s  {made.detail}", flush=True)
            if made.bad and made.output:
                print(made.output, flush=True)
            suite.file.add_step(made)
            steps.append(made)
    return not any(made.bad for made in steps)


def build(suite: Suite) -> list[Step]:
    """The extension beside its sources, for this GPU's architecture alone unless the caller says others."""
    major, minor = torch.cuda.get_device_capability()
    own = f"{major}.{minor}" + ("a" if major >= 9 else "")
    environment = {"TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", own)}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    seconds = suite.deadline.left(BUILD_SECONDS)
    return [step("build", command, seconds, environment=environment)]


def tests(suite: Suite) -> list[Step]:
    """Every file with GPU tests in a process of its own: an illegal access ends that file's tests alone."""
    # only these files: others may need packages that a GPU machine without a network lacks
    files = [path for path in sorted(ROOT.glob("tests/**/test_*.py")) if _has_gpu_tests(path)]
    limit = Deadline(suite.deadline.left(TEST_SECONDS))

    def test(path: Path) -> Step:
        name = str(path.relative_to(ROOT))
        return _pytest(f"test {name}", [*PYTEST, name], limit.left())

    with ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
        return list(pool.map(test, files))


def sanitize(suite: Suite) -> list[Step]:
    """Every CUDA kernel's `sanitize` test under compute-sanitizer."""
    files = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/gpu/test_cuda_*.py"))]
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer",
        path=os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin"),
    )
    steps = []
    for tool in ("memcheck", "racecheck"):
        if program is None or not files:
            why = "there is no tests/gpu/test_cuda_*.py" if program else "compute-sanitizer is not installed"  # fmt: skip
            steps.append(Step(tool, "skipped", detail=why))
            continue
        command = [program, "--tool", tool, "--error-exitcode", "9", *PYTEST, "-k", "sanitize", *files]  # fmt: skip
        # blocks of the caching allocator lie side by side: beyond one's end would be the next one
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        seconds = suite.deadline.left(SANITIZE_SECONDS)
        steps.append(_pytest(tool, command, seconds, environment=environment))
    return steps


def kernels(suite: Suite) -> list[Step]:
    """The losses and the decode kernels."""
    return [_benches("kernels", _suites("engine_", "eval_", "train_", others=True), suite)]


def engine(suite: Suite) -> list[Step]:
    """Decode steps, prompts and whole generations at the 2B shape, with random weights."""
    return [_benches("engine", _suites("engine_", "eval_"), suite)]


def training(suite: Suite) -> list[Step]:
    """SFT and RL steps at 2B shapes, random weights: the last part, for it takes long to make its models."""
    return [_benches("training", _suites("train_"), suite, TRAINING)]


def _suites(*starts: str, others: bool = False) -> list[str]:
    return [name for name in MODULES if name.startswith(starts) != others]


def _benches(name: str, suites: list[str], suite: Suite, options: tuple[str, ...] = ()) -> Step:
    """These suites of `python -m bench` on this GPU, those without good rows first."""
    deadline, began = suite.deadline, suite.deadline.left()
    chosen = in_turn(cases("cuda", suites=suites), "cuda", suite.file.rows)
    measured = measure(chosen, "cuda", deadline, suite.file.path, options)
    suite.file.read_again()
    bad = failures(suite.file.rows, measured)
    reached = f"{len(measured.done)} of {measured.asked} cases"
    detail = f"{reached}, failed: {', '.join(bad)}" if bad else reached
    return Step(name, "failed" if bad else "ok", round(began - deadline.left(), 1), detail)


def _pytest(name: str, command: list[str], seconds: float, **options) -> Step:
    """pytest as a step; what it skips is named in the detail."""
    ended = run(command, seconds, **options)
    made = Step(name, "failed", round(ended.seconds, 1), ended.last_line())
    if ended.status is None:
        made.status, made.detail = "out of time", f"ended after {ended.seconds:.0f} s"
    elif ended.status == NO_TESTS:
        made.status, made.detail = "skipped", "no test was selected"
    elif ended.status == 0:
        made.status = "ok" if re.search(r"\b\d+ passed\b", ended.output) else "skipped"
        # SKIPPED [2] tests/gpu/test_gpu.py:48: the reason
        reasons = re.findall(r"^SKIPPED \[\d+\] [^ ]+: (.+)", ended.output, re.MULTILINE)
        made.detail = "; ".join([made.detail, *dict.fromkeys(reasons)])
    if made.bad:
        made.output = ended.output[-4000:]
    return made


def _has_gpu_tests(path: Path) -> bool:
    return "pytest.mark.gpu" in path.read_text()


PARTS: dict[str, Callable[[Suite], list[Step]]] = {
    "tests": tests,
    "sanitize": sanitize,
    "kernels": kernels,
    "engine": engine,
    "training": training,
}

if __name__ == "__main__":
    sys.exit(main())
