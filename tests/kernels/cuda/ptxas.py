"""What the compiler makes of csrc/cuda/*.cu for a GPU that is not there.

    python tests/kernels/cuda/ptxas.py sm_90a group_reward.cu    # {kernel: measures} as JSON

A kernel is named with its template arguments: "group_reward_kernel<float, true>".
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FUNCTION = re.compile(r"Compiling entry function '(\S+)'")
# a stack frame is local memory too: an array that is not in registers
SPILLED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
# what a kernel is made of: instructions of 16 bytes of global memory, of tensor cores
INSTRUCTIONS = {
    "loads_16_bytes": re.compile(r"\bld\.global[.\w:]*\.v(?:4\.[bfsu]32|2\.[bfsu]64)"),
    "async_copies": re.compile(r"\bcp\.async\.cg"),
    "matrix_loads": re.compile(r"\bldmatrix\.sync"),
    "mma": re.compile(r"\bmma\.sync"),
    "wgmma": re.compile(r"\bwgmma\.mma_async"),
}
# wgmma one after the other, not side by side
SERIALIZED = re.compile(r"wgmma\.mma_async instructions are serialized")


def toolkit() -> Path | None:
    """The folder of nvcc, as torch finds it."""
    from torch.utils.cpp_extension import CUDA_HOME

    folder = Path(CUDA_HOME) if CUDA_HOME else None
    return folder if folder and (folder / "bin" / "nvcc").exists() else None


def measure(source: Path, architecture: str) -> dict[str, dict[str, int]]:
    """{kernel: registers, shared bytes, spilled bytes, and how many of INSTRUCTIONS}.

    Raises:
        RuntimeError: it does not compile, or the compiler gives up on what runs side by side.
    """
    from torch.utils.cpp_extension import include_paths

    build = runpy.run_path(str(ROOT / "setup.py"), run_name="setup_functions")
    flags = [flag for flag in build["nvcc_flags"]() if not flag.startswith("-gencode")]
    with tempfile.TemporaryDirectory() as folder:
        command = [toolkit() / "bin" / "nvcc", "-cubin", f"-arch={architecture}", "-Xptxas=-v"]
        command += [*flags, "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}"]
        command += [f"-I{path}" for path in include_paths()]
        command += ["-keep", "-keep-dir", folder, "-o", f"{folder}/out.cubin", source]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0 or SERIALIZED.search(done.stderr):
            raise RuntimeError(done.stderr[-3000:])
        [ptx] = Path(folder).glob("*.ptx")
        instructions = _instructions(ptx.read_text())
    parts = FUNCTION.split(done.stderr)
    return {
        _readable(name): {
            "registers": int(USED.search(report)[1]),
            "shared": int((SHARED.search(report) or [0, 0])[1]),
            "spills": sum(map(int, SPILLED.search(report).groups())),
            **instructions[name],
        }
        for name, report in zip(parts[1::2], parts[2::2], strict=True)
    }


def _instructions(ptx: str) -> dict[str, dict[str, int]]:
    parts = re.split(r"\.entry (\w+)\(", ptx)
    return {
        name: {kind: len(one.findall(body)) for kind, one in INSTRUCTIONS.items()}
        for name, body in zip(parts[1::2], parts[2::2])
    }


def _readable(mangled: str) -> str:
    full = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    return re.search(r"(\w+(?:<[^()]*>)?)\(", full.replace("(anonymous namespace)::", ""))[1]


if __name__ == "__main__":
    json.dump(measure(ROOT / "csrc" / "cuda" / sys.argv[2], sys.argv[1]), sys.stdout, indent=1)
