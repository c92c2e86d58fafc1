"""One kernel under Nsight Compute: the exact command, and running it where ncu is installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

from umer1.profiling.request import Request


def command(kernel: str, request: Request) -> list[str]:
    """ncu on the first launch of a kernel whose name matches (a regular expression), warm, all sections.

    What it runs is the workload without torch's profiler, which would take the GPU's counters for itself.
    """
    return [
        "ncu",
        "--profile-from-start", "off",
        "--kernel-name", f"regex:{kernel}",
        "--launch-count", "1",
        "--set", "full",
        sys.executable, "-m", "umer1.profiling", *request.arguments(),
    ]  # fmt: skip


def run(kernel: str, request: Request) -> tuple[str, int]:
    """What happened in words ("" if ncu ran), and ncu's exit status."""
    wanted = command(kernel, request)
    found = shutil.which(wanted[0])
    if found is None:
        return "ncu is not on the PATH (it comes with the CUDA toolkit and with Nsight Compute): not run", 0  # fmt: skip
    return "", subprocess.run([found, *wanted[1:]]).returncode


def text(kernel: str, request: Request) -> str:
    """The command as a shell takes it."""
    return shlex.join(command(kernel, request))
