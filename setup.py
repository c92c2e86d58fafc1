"""Builds `umer1_kernels/_C.abi3.so` and `umer1/_packing` from csrc/; all else is in pyproject.toml.

The kernels' extension uses PyTorch's stable ABI and no Python at all: one binary serves torch 2.11
to 2.15 and Python 3.11 on. It is compiled against the torch of the environment, which pip's build
isolation hides, so build with

    pip install --no-build-isolation -e .        or        python setup.py build_ext --inplace

Environment: UMER1_BUILD_CPU=0 leaves the extension out. UMER1_BUILD_CUDA=0|1|auto says whether it
gets the CUDA kernels: auto (the default) if there are any and a CUDA torch and nvcc >= 12.8 are
there; 1 fails where auto would leave them out. A GPU need not be there. The CUDA kernels are built
for sm_80 and sm_90a, with compute_90 code for later GPUs, or for TORCH_CUDA_ARCH_LIST. MAX_JOBS, CC
and CXX are honoured.

The packing planner (csrc/host, pybind11, no torch) serves one Python version, and so does a wheel
that holds it. UMER1_BUILD_PACKING=0|1|auto: auto (the default) builds it where the result stays on
this machine (`pip install -e`, `build_ext --inplace`) if pybind11 and a compiler are there, and never
puts it into a wheel; 1 always builds it, fails where it cannot, and ties a wheel to this Python.
Without it the planner is numpy and Python, with the same packs.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

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
    options = extension_options() if cpu_wanted() and torch_is_there() else {}
    if packing_wanted():
        options = with_packing(options)
    else:  # one that was built in place would go into the wheel with it
        for left_over in ROOT.glob("build/lib*/umer1/_packing*"):
            left_over.unlink()
    setup(**options)


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


def packing_wanted():
    """Whether the packing planner is compiled; with UMER1_BUILD_PACKING=1 an obstacle is an error."""
    wanted = choice("UMER1_BUILD_PACKING", ("0", "1", "auto"), "auto")
    if wanted == "0" or (wanted == "auto" and not stays_here(sys.argv[1:])):
        return False
    obstacle = packing_obstacle()
    if obstacle and wanted == "1":
        sys.exit(f"UMER1_BUILD_PACKING=1, but the packing planner cannot be built: {obstacle}")
    if obstacle:
        notice(f"packing planner left to numpy: {obstacle}.")
    return not obstacle


def stays_here(arguments):
    """Whether setup.py was asked to build into this source tree, not into a wheel for others."""
    return "editable_wheel" in arguments or "develop" in arguments or "--inplace" in arguments


def packing_obstacle():
    """Why csrc/host cannot be compiled, or None."""
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed (pip install pybind11)"
    return None if compiler_is_there() else f"no C++20 compiler: {compiler()!r} is not on the PATH"


def with_packing(options):
    """`options` of setup() and the planner: a wheel with it is no longer one for every Python."""
    import pybind11

    planner = Extension(
        "umer1._packing",
        ["csrc/host/packing.cpp"],
        include_dirs=[pybind11.get_include()],
        extra_compile_args=["-O3", "-std=c++20", "-fvisibility=hidden"],
        extra_link_args=["-s"],
        language="c++",
    )
    kept = {name: value for name, value in options.items() if name != "options"}
    return {**kept, "ext_modules": [*options.get("ext_modules", []), planner]}


def nvcc_flags():
    flags = ["-O3", "-std=c++20", *STABLE_ABI, "-DUSE_CUDA"]  # the last: torch's CUDA functions
    flags += ["-Xcompiler=-fvisibility=hidden", "-Xcompiler=-Wno-psabi"]
    # torch reads the variable itself; without it torch would ask the GPUs that are there
    return flags if os.environ.get("TORCH_CUDA_ARCH_LIST") else [*flags, *CUDA_ARCHITECTURES]


def compiler():
    return os.environ.get("CXX", "c++").split()[-1]


def compiler_is_there():
    return shutil.which(compiler()) is not None


def require_compiler():
    if not compiler_is_there():
        sys.exit(
            f"umer1's extension needs a C++20 compiler, and {compiler()!r} is not on the PATH. "
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
