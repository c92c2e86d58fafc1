"""C++ beside these tests runs the kernels' schedules on the CPU; it is compiled here."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))  # what runs the libraries is a plain module beside the tests
SOURCES = FOLDER.parents[1] / "csrc"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled("name") is the library of name.cpp."""
    folder, libraries = tmp_path_factory.mktemp("csrc"), {}

    def load(name: str) -> ctypes.CDLL:
        if name not in libraries:
            library = folder / f"{name}.so"
            compiler = os.environ.get("CXX", "c++").split()
            flags = ["-std=c++20", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{SOURCES}"]
            command = [*compiler, *flags, FOLDER / f"{name}.cpp", "-o", library]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            libraries[name] = ctypes.CDLL(library)
        return libraries[name]

    return load
