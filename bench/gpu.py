"""`make gpu`, `make gpu PART=kernels`: build in place, test and measure on this GPU -> bench/results/<gpu>.json.

Needs one GPU, a CUDA torch, pytest and no network. Everything ends inside nine minutes, of which each part has its share:
what does not fit is recorded as not reached, and the next run begins with it. Each step runs in processes of its own, and
the file is written after each, so that a crash, a hang or a kill costs one step; what other parts measured on the same GPU
with the same sources stays in it. What is not installed is skipped by name. The exit status is 1 if anything failed.
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

# of the nine minutes, what is left for steps; the rest is starting, ending and writing
SECONDS = 525
BUILD_SECONDS, TEST_SECONDS, ALONE_SECONDS = 240, 300, 40
# of the time that is left, between a part and those that come after it; what one does not use goes to them
SHARES = {"tests": 2, "sanitize": 1, "kernels": 2, "engine": 2, "training": 2}
TESTS_AT_ONCE, SANITIZERS_AT_ONCE = 8, 4
LONGEST_FIRST = ("test_triton.py", "test_triton_decode.py", "test_engine.py")
ALONE = (
    "test_gpu_profile.py"  # compares kernels' times with the machine's: nobody else is to use it
)
TOOLS = ("memcheck", "racecheck")
# a model of two billion weights, transformers' copy of it and the float32 truth come before the first run
ENGINE = ("--limit", "300")
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
    """The build, then these parts, each in its share of the time; whether all that ran was good."""
    steps = _noted(build(suite), suite.file)
    for place, name in enumerate(parts):
        share = SHARES[name] / sum(SHARES[each] for each in parts[place:])
        part = Suite(suite.file, Deadline(share * suite.deadline.left()))
        steps += _noted(PARTS[name](part), suite.file)
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
    files.sort(key=lambda path: path.name not in LONGEST_FIRST)
    limit = Deadline(suite.deadline.left(TEST_SECONDS))
    together = Deadline(limit.left() - ALONE_SECONDS)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // TESTS_AT_ONCE))}

    def test(path: Path) -> Step:
        name, alone = str(path.relative_to(ROOT)), path.name == ALONE
        environment = {} if alone else threads
        seconds = (limit if alone else together).left()
        return _pytest(f"test {name}", [*PYTEST, name], seconds, environment=environment)

    with ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
        made = list(pool.map(test, [path for path in files if path.name != ALONE]))
    return made + [test(path) for path in files if path.name == ALONE]


def sanitize(suite: Suite) -> list[Step]:
    """Every CUDA kernel's `sanitize` tests under compute-sanitizer, each file in a process of its own."""
    paths = sorted(ROOT.glob("tests/gpu/test_cuda_*.py"))
    files = [str(path.relative_to(ROOT)) for path in paths if "def test_sanitize" in path.read_text()]  # fmt: skip
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer",
        path=os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin"),
    )
    if program is None or not files:
        why = "no tests/gpu/test_cuda_*.py has tests for it" if program else "compute-sanitizer is not installed"  # fmt: skip
        return [Step(tool, "skipped", detail=why) for tool in TOOLS]

    def check(work: tuple[str, str]) -> Step:
        tool, name = work
        command = [program, "--tool", tool, "--error-exitcode", "9", *PYTEST, "-k", "sanitize", name]  # fmt: skip
        # blocks of the caching allocator lie side by side: beyond one's end would be the next one
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        seconds = suite.deadline.left()
        return _pytest(f"{tool} {name}", command, seconds, environment=environment)

    with ThreadPoolExecutor(SANITIZERS_AT_ONCE) as pool:
        return list(pool.map(check, [(tool, name) for tool in TOOLS for name in files]))


def kernels(suite: Suite) -> list[Step]:
    """The losses and the decode kernels."""
    return [_benches("kernels", _suites("engine_", "eval_", "train_", others=True), suite)]


def engine(suite: Suite) -> list[Step]:
    """Decode steps, prompts and whole generations at the 2B shape, with random weights."""
    return [_benches("engine", _suites("engine_", "eval_"), suite, ENGINE)]


def training(suite: Suite) -> list[Step]:
    """SFT and RL steps at the 2B shape, with random weights."""
    return [_benches("training", _suites("train_"), suite, TRAINING)]


def _noted(steps: list[Step], file: GpuFile) -> list[Step]:
    """Printed, and in the file."""
    for made in steps:
        print(f"{made.step}: {made.status} in {made.seconds:.0f} s  {made.detail}", flush=True)
        if made.bad and made.output:
            print(made.output, flush=True)
        file.add_step(made)
    return steps


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
    # interrupted, it says what failed until then
    ended = run(command, seconds, ending=signal.SIGINT, **options)
    made = Step(name, "failed", round(ended.seconds, 1), ended.last_line())
    if ended.status is None:
        made.status = "out of time"
        made.detail = f"ended after {ended.seconds:.0f} s; {ended.last_line()}".rstrip("; ")
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
