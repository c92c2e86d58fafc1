"""What a number was measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
# what is measured: what these files hold
SOURCES = ("setup.py", "csrc/**/*", "kernels/umer1_kernels/**/*.py")
# results are what comes out, not what is measured
CHANGED = ("--porcelain", "--untracked-files=no", "--", ".", ":(exclude)bench/results")
PACKAGES = ("torch", "triton", "transformers", "tokenizers", "numpy", "accelerate")


def environment() -> dict:
    """GPU, driver, versions and commit, as they go into every result file.

    A copy of the repository without its history says its commit by the variable UMER1_COMMIT.
    """
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpu_features": cpu_features(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _output("git", "rev-parse", "HEAD") or os.environ.get("UMER1_COMMIT"),
        "uncommitted_changes": bool(_output("git", "status", *CHANGED)),
        "sources": sources(),
    }


def sources() -> str:
    """A digest of the native code and of the kernel library: equal digests, equal kernels."""
    digest = hashlib.sha256()
    files = {path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()}
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cpu_features() -> str:
    """The vector instructions that decide which CPU kernels run, such as "AVX512 avx512_bf16"."""
    flags = (_cpu_field("flags") or "").split()
    found = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *found])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def _cpu_field(name: str) -> str | None:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return None
