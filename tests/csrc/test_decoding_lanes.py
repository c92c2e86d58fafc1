"""Decode attention and the sampler's passes on every instruction set this machine has."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
SOURCES = FOLDER.parents[1] / "csrc"
NAMES = ("portable", "avx2", "avx512", "avx512-bf16")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """library("name") is name.cpp beside this file, compiled as setup.py compiles the extension."""
    folder = tmp_path_factory.mktemp("lanes")

    def load(name: str) -> ctypes.CDLL:
        path = folder / f"{name}.so"
        if not path.exists():
            compiler = os.environ.get("CXX", "c++").split()
            flags = ["-std=c++20", "-O3", "-Wno-psabi", "-shared", "-fPIC", f"-I{SOURCES}"]
            command = [*compiler, *flags, FOLDER / f"{name}.cpp", "-o", path]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
        return ctypes.CDLL(path)

    return load


def variant_here(library, name: str) -> int:
    number = NAMES.index(name)
    if not library("decode_lanes").runs(number):
        pytest.skip(f"this processor has no {name}")
    return number


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def attended(library, name, query, key, value, scale):
    """Weighted sums, bests and totals of one tile."""
    number = variant_here(library, name)
    (rows, size), count = query.shape, len(key)
    out = torch.full((rows, size), float("nan"))
    best, total = torch.full((2, rows), float("nan"))
    tensors = (address(query), ctypes.c_int64(rows), address(key), address(value))
    numbers = (ctypes.c_int64(count), ctypes.c_int64(size), ctypes.c_float(scale))
    results = (address(out), address(best), address(total))
    if name == "avx512-bf16":
        library("decode_lanes").attend_bits(*tensors, *numbers, *results)
    else:
        library("decode_lanes").attend_float(number, *tensors, *numbers, *results)
    return out, best, total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows, count, size", [
    (1, 1, 16), (6, 256, 128), (7, 63, 64), (48, 100, 80), (50, 17, 128), (192, 5, 7), (12, 9, 200),
])  # fmt: skip
def test_attend(library, name, rows, count, size):
    dtype = torch.bfloat16 if name == "avx512-bf16" else torch.float32
    query, key, value = (torch.randn(n, size).to(dtype) for n in (rows, count, count))
    out, best, total = attended(library, name, query, key, value, 0.3)
    scores = query.double() @ key.double().T
    torch.testing.assert_close(best.double(), scores.amax(1), rtol=1e-5, atol=1e-5)
    weights = torch.exp(0.3 * (scores - best.double()[:, None]))
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(total.double(), weights.sum(1), rtol=tolerance, atol=0)
    wanted = weights @ value.double()
    assert float((out - wanted).norm() / wanted.norm()) <= tolerance


@pytest.mark.parametrize("name", NAMES)
def test_a_rows_bits_are_its_own(library, name):
    """Beside any number of other rows, and in any place among them."""
    dtype = torch.bfloat16 if name == "avx512-bf16" else torch.float32
    query, key, value = (torch.randn(n, 72).to(dtype) for n in (60, 77, 77))
    together = attended(library, name, query, key, value, 0.2)
    for rows in (slice(0, 1), slice(5, 12), slice(40, 60), slice(1, 50)):
        alone = attended(library, name, query[rows].clone(), key, value, 0.2)
        assert all(torch.equal(one, other[rows]) for one, other in zip(alone, together))


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_merge(library, name, count):
    number = variant_here(library, name)
    size, stride, scale = 40, 64, 0.5
    out, best, total = torch.randn(count, stride), 9 * torch.randn(count), 1 + torch.rand(count)
    result = torch.full((size,), float("nan"))
    library("decode_lanes").merge(
        number, address(out), address(best), address(total), ctypes.c_int64(count),
        ctypes.c_int64(size), ctypes.c_int64(stride), ctypes.c_float(scale), address(result),
    )  # fmt: skip
    factor = torch.exp(scale * (best.double() - best.double().max())) if count else best.double()
    wanted = (
        (factor @ out.double())[:size] / (factor @ total.double()) if count else torch.zeros(size)
    )
    torch.testing.assert_close(result.double(), wanted.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES[:3])
def test_widen(library, name):
    number = variant_here(library, name)
    bits = torch.randn(37).bfloat16()
    wide = torch.empty(37)
    library("decode_lanes").widen(number, address(bits), ctypes.c_int64(37), address(wide))
    assert torch.equal(wide, bits.float())


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 16, 37, 512])
def test_sampler_passes(library, name, dtype, count):
    number = variant_here(library, name)
    logits = (5 * torch.randn(count)).to(dtype)
    logits[3::7] = float("-inf")
    best, total, out = torch.zeros(1), torch.zeros(1), torch.zeros(count + 16)
    run = library("sampler_lanes")
    run = run.pool_bits if dtype == torch.bfloat16 else run.pool_float
    arguments = (number, address(logits), ctypes.c_int64(count), ctypes.c_float(1.7))
    run(*arguments, address(best), address(total), address(out))
    assert best.item() == logits.max().item()
    wanted = torch.exp(1.7 * (logits.double() - logits.double().max()))
    torch.testing.assert_close(total[0].double(), wanted.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(out[:count].double(), wanted, rtol=2e-5, atol=1e-30)
