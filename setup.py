"""Builds `umer1_kernels/_C.abi3.so` from csrc/; all else is in pyproject.toml.

The extension uses PyTorch's stable ABI and no Python at all: one binary serves torch 2.11 to 2.15
and Python 3.11 on. It is compiled against the torch of the environment, which pip's build
isolation hides, so build with

    pip install --no-build-isolation -e .        or        python setup.py build_ext --inplace

Environment: UMER1_BUILD_CPU=0 leaves the extension out. UMER1_BUILD_CUDA=0|1|auto says whether it
gets the CUDA kernels: auto (the default) if there are any and a CUDA torch and nvcc >= 12.8 are
there; 1 fails where auto would leave them out. A GPU need not be there. The CUDA kernels are built
for sm_80 and sm_90a, with compute_90 code for later GPUs, or for TORCH_CUDA_ARCH_LIST. MAX_JOBS, CC
and CXX are honoured.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
MINIMUM_NVCC = (12, 8)
MINIMUM_TORCH = (2, 11)
# symbols of the oldest supported torch only: 2.11, laid out as torch/headeronly/version.h does
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
# code for A100 and its like, for Hopper, and what a driver compiles for GPUs after it
CUDA_ARCHITECTURES = (
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",
)
HOW_TO_BUILD = "pip install --no-build-isolation -e ."


def main():
    extension = cpu_wanted() and torch_is_there()
    setup(**(extension_options() if extension else {}))


def cpu_wanted():
    if choice("UMER1_BUILD_CPU", ("0", "1"), "1") == "1":
        return True
    notice("UMER1_BUILD_CPU=0: installing without the compiled extension.")
    return False


def torch_is_there():
    """False, with a notice, inside pip's build isolation."""
    try:
        import torch
    except ImportError:
        notice(
            "torch is not importable here (pip builds in isolation), so umer1 is installed without "
            f"its compiled extension. To compile it against your torch: {HOW_TO_BUILD}"
        )
        return False
    version = version_of(torch.__version__)
    if version < MINIMUM_TORCH:
        sys.exit(f"umer1 needs torch >= 2.11 to build; this environment has {torch.__version__}")
    return True


def extension_options():
    """Keywords of setup() for the extension."""
    name_toolkit()
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    require_compiler()
    cuda_sources = sorted(ROOT.glob("csrc/cuda/*.cu"))
    cuda = build_cuda(cuda_sources)
    sources = [ROOT / "csrc/ops.cpp", *sorted(ROOT.glob("csrc/cpu/*.cpp"))]
    flags = ["-O3", "-std=c++20", "-fvisibility=hidden", "-Wno-psabi", *STABLE_ABI]
    arguments = {"cxx": flags}
    if cuda:
        sources += cuda_sources
        arguments["cxx"] = [*flags, "-DUMER1_WITH_CUDA"]
        arguments["nvcc"] = nvcc_flags()
    extension = (CUDAExtension if cuda else CppExtension)(
        "umer1_kernels._C",
        [str(source.relative_to(ROOT)) for source in sources],
        include_dirs=[str(ROOT / "csrc")],
        depends=[
            str(header)
            for header in ROOT.glob("csrc/**/*")
            if header.suffix in (".h", ".inc", ".cuh")
        ],
        extra_compile_args=arguments,
        extra_link_args=["-s"],  # no symbol table: the library only registers operators
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


def nvcc_flags():
    flags = ["-O3", "-std=c++20", *STABLE_ABI, "-DUSE_CUDA"]  # the last: torch's CUDA functions
    flags += ["-Xcompiler=-fvisibility=hidden", "-Xcompiler=-Wno-psabi"]
    # torch reads the variable itself; without it torch would ask the GPUs that are there
    return flags if os.environ.get("TORCH_CUDA_ARCH_LIST") else [*flags, *CUDA_ARCHITECTURES]


def require_compiler():
    compiler = os.environ.get("CXX", "c++").split()[-1]
    if shutil.which(compiler) is None:
        sys.exit(
            f"umer1's extension needs a C++20 compiler, and {compiler!r} is not on the PATH. "
            "Install one (Debian, Ubuntu: apt install g++), name one in CXX, or set "
            "UMER1_BUILD_CPU=0 to do without."
        )


def name_toolkit():
    """CUDA_HOME for torch, where only the PATH knows nvcc, which may be a script elsewhere."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    plan = subprocess.run(command, capture_output=True, text=True).stderr
    folder = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
    if folder:
        os.environ["CUDA_HOME"] = os.path.normpath(folder[1])


def build_cuda(cuda_sources):
    """Whether the CUDA sources are compiled; with UMER1_BUILD_CUDA=1 an obstacle is an error."""
    wanted = choice("UMER1_BUILD_CUDA", ("0", "1", "auto"), "auto")
    if wanted == "0":
        return False
    obstacle = cuda_obstacle(cuda_sources)
    if obstacle and wanted == "1":
        sys.exit(f"UMER1_BUILD_CUDA=1, but the CUDA kernels cannot be built: {obstacle}")
    notice(f"CUDA kernels left out: {obstacle}." if obstacle else "CUDA kernels are built.")
    return not obstacle


def cuda_obstacle(cuda_sources):
    """Why the CUDA sources cannot be compiled, or None. A GPU need not be present."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if not cuda_sources:
        return "this version has no CUDA sources"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if CUDA_HOME is None:
        return "no CUDA toolkit found (set CUDA_HOME)"
    nvcc = Path(CUDA_HOME) / "bin" / "nvcc"
    if not nvcc.exists():
        return f"{nvcc} is not there"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+\.\d+)", text)
    if release is None or version_of(release[1]) < MINIMUM_NVCC:
        return f"nvcc >= 12.8 is needed, {nvcc} is {release[1] if release else 'unknown'}"
    if not any((Path(CUDA_HOME) / folder / "libcudart.so").exists() for folder in ("lib64", "lib")):
        return f"no libcudart.so in {CUDA_HOME}/lib64 (set CUDA_HOME to the toolkit's folder)"
    return None


def choice(name, choices, default):
    value = os.environ.get(name, default)
    if value not in choices:
        sys.exit(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    return value


def version_of(text):
    return tuple(int(part) for part in re.match(r"(\d+)\.(\d+)", text).groups())


def notice(text):
    print(f"umer1: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
