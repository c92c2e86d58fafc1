"""What pip builds and installs: metadata, the build's messages, one wheel for many torch versions."""

import importlib.metadata
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import umer1_kernels

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OLDEST_TORCH = "2.11"


@pytest.fixture
def build():
    """setup.py's functions, without running setup()."""
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup_functions")


def test_version_has_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert importlib.metadata.version("umer1") == umer1_kernels.__version__


def test_kernels_is_a_folder_not_a_package():
    """A top-level package `kernels` would shadow a library that transformers looks for."""
    assert not (ROOT / "kernels/__init__.py").exists()
    top_level = importlib.metadata.distribution("umer1").read_text("top_level.txt").split()
    assert sorted(top_level) == ["umer1", "umer1_kernels"]


def test_command_and_extras():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="umer1")
    assert [script.value for script in scripts] == ["umer1.cli:main"]
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert {"train", "flash", "serve", "eval", "data", "video", "dev"} <= extras


def test_missing_compiler_is_said_clearly(build, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        SystemExit, match="needs a C\\+\\+20 compiler.*no-such-compiler.*apt install"
    ):
        build["require_compiler"]()


def test_cuda_switch(build, monkeypatch):
    def cuda_source(obstacle):
        monkeypatch.setitem(
            build["build_cuda"].__globals__, "cuda_obstacle", lambda sources: obstacle
        )
        return build["build_cuda"]([])

    monkeypatch.setenv("UMER1_BUILD_CUDA", "auto")
    assert cuda_source(None) is True and cuda_source("no toolkit") is False
    monkeypatch.setenv("UMER1_BUILD_CUDA", "0")
    assert cuda_source(None) is False
    monkeypatch.setenv("UMER1_BUILD_CUDA", "1")
    assert cuda_source(None) is True
    with pytest.raises(SystemExit, match="cannot be built: no toolkit"):
        cuda_source("no toolkit")
    monkeypatch.setenv("UMER1_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="UMER1_BUILD_CUDA is 'yes'"):
        cuda_source(None)


def test_cuda_architectures(build, monkeypatch):
    """Hopper's own instructions, Ampere, and code for what comes; or what the user names."""
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    targets = [flag.split(",")[1] for flag in build["nvcc_flags"]() if flag.startswith("-gencode")]
    assert targets == ["code=sm_80", "code=sm_90a", "code=compute_90"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a")
    assert not [flag for flag in build["nvcc_flags"]() if "arch" in flag]  # torch adds them


def test_build_without_torch_gives_the_python_package(build, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert build["torch_is_there"]() is False
    assert "pip install --no-build-isolation" in capsys.readouterr().err
    monkeypatch.setenv("UMER1_BUILD_CPU", "0")
    assert build["cpu_wanted"]() is False


IN_PLACE, FOR_OTHERS = ["build_ext", "--inplace"], ["bdist_wheel", "-d", "dist"]


@pytest.mark.parametrize(
    "choice, arguments, wanted",
    [
        (None, IN_PLACE, True),
        (None, ["--quiet", "editable_wheel"], True),
        (None, FOR_OTHERS, False),
        ("1", FOR_OTHERS, True),
        ("0", IN_PLACE, False),
    ],
)
def test_packing_planner_is_built_where_it_stays(build, monkeypatch, choice, arguments, wanted):
    monkeypatch.delenv("UMER1_BUILD_PACKING", raising=False)
    if choice:
        monkeypatch.setenv("UMER1_BUILD_PACKING", choice)
    monkeypatch.setattr(sys, "argv", ["setup.py", *arguments])
    monkeypatch.setitem(build["packing_wanted"].__globals__, "packing_obstacle", lambda: None)
    assert build["packing_wanted"]() is wanted


def test_packing_planner_that_cannot_be_built_is_left_out_or_an_error(build, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["setup.py", *IN_PLACE])
    monkeypatch.setitem(sys.modules, "pybind11", None)
    monkeypatch.setenv("UMER1_BUILD_PACKING", "auto")
    assert build["packing_wanted"]() is False
    assert "left to numpy: pybind11 is not installed" in capsys.readouterr().err
    monkeypatch.setenv("UMER1_BUILD_PACKING", "1")
    with pytest.raises(SystemExit, match="cannot be built: pybind11 is not installed"):
        build["packing_wanted"]()
    monkeypatch.setitem(build["packing_obstacle"].__globals__, "compiler_is_there", lambda: False)
    monkeypatch.setitem(sys.modules, "pybind11", sys)
    with pytest.raises(SystemExit, match="cannot be built: .*compiler"):
        build["packing_wanted"]()


def test_a_wheel_with_the_packing_planner_is_for_one_python(build):
    pytest.importorskip("pybind11")
    everywhere = {"ext_modules": ["kernels"], "cmdclass": {"build_ext": 1}, "options": {"bdist_wheel": {}}}  # fmt: skip
    tied = build["with_packing"](everywhere)
    assert set(tied) == {"ext_modules", "cmdclass"} and tied["cmdclass"] == {"build_ext": 1}
    assert tied["ext_modules"][0] == "kernels"
    assert [module.name for module in tied["ext_modules"][1:]] == ["umer1._packing"]
    alone = build["with_packing"]({})  # without torch
    assert [module.name for module in alone["ext_modules"]] == ["umer1._packing"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a clean copy of the sources, built with this environment's torch."""
    clean, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, clean)
    for name in ("csrc", "kernels", "umer1"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, clean / name, ignore=ignored)
    pip("wheel", "--no-build-isolation", "--no-deps", "-w", out, clean)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_wheel_serves_every_python_and_holds_everything(wheel):
    assert "-cp311-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert "umer1_kernels/_C.abi3.so" in names
    assert not [name for name in names if "_packing" in name and name.endswith(".so")]
    installed = {name for name in names if name.endswith(".py")}
    for package, root in (("umer1", ROOT), ("umer1_kernels", ROOT / "kernels")):
        sources = {str(path.relative_to(root)) for path in (root / package).rglob("*.py")}
        assert sources <= installed
    assets = {
        str(path.relative_to(ROOT)) for path in (ROOT / "umer1/assets").rglob("*") if path.is_file()
    }
    recipes = {str(path.relative_to(ROOT)) for path in (ROOT / "umer1/recipes").glob("*.yaml")}
    assert assets | recipes <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "kernels/", "csrc/"))]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_wheel_passes_the_kernel_tests_on_the_oldest_torch(wheel, tmp_path):
    """Built with today's torch, run with the oldest supported one: what the stable ABI promises."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    pip("install", f"torch=={OLDEST_TORCH}.*", "numpy", "pytest", "hypothesis", python=python)
    pip("install", "--no-deps", wheel, python=python)
    # a copy of the tests, away from the sources, so that the installed package is what runs
    shutil.copytree(ROOT / "tests/kernels", tmp_path / "tests/kernels")
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = [
        python,
        "-m",
        "pytest",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "tests",
    ]
    result = subprocess.run(
        [*run, "-m", "not slow"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    check = "import torch, umer1_kernels as k; print(torch.__version__, k.__file__)"
    command = [python, "-c", check]
    where = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert where.stdout.startswith(OLDEST_TORCH) and str(tmp_path) in where.stdout


def pip(*arguments, python=sys.executable):
    command = [str(part) for part in (python, "-m", "pip", "-q", *arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
