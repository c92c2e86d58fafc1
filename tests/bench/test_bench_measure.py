"""How the benchmark measures: memory of a known allocation, counts of a known call, rounds in turn, the floor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import timing
from bench.case import Gemms
from bench.counts import count, graph_breaks
from bench.memory import PLAIN_MALLOC
from bench.timing import Run, floor_run, interleave, paired_ratio, spread

ROOT = Path(__file__).parents[2]
MIB = 2**20
CPU = torch.device("cpu")
KNOWN = """
import json, mmap, torch
from bench.memory import process_peak, result_bytes
MIB = 2**20
def tensors(kept=64, freed=32):
    result = torch.ones(kept * MIB, dtype=torch.int8)
    others = [torch.ones(freed * MIB, dtype=torch.int8) for _ in range(4)]
    return {"kept": result}
def native():  # memory that torch knows nothing of
    with mmap.mmap(-1, 96 * MIB) as block:
        for _ in range(96):
            block.write(b"1" * MIB)
    return {}
def growing():  # malloc's own threshold rises to 31 MiB; then each is too large for the hole before it
    pins = [torch.ones(31 * MIB, dtype=torch.int8)[:0].clone()]
    for size in range(16, 30):
        block = torch.ones(size * MIB, dtype=torch.int8)
        pins.append(torch.ones(60 * 1024, dtype=torch.int8))
        del block
    return {}
def small():
    return tensors(4, 2)
torch.ones(10).sum()
found = {}
for call in (tensors, small, native, growing, tensors):
    peak, result = process_peak(call)
    found.setdefault(call.__name__, []).append((peak - result_bytes(result)) / MIB)
    del result
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_of_a_known_allocation():
    environment = {**os.environ, **PLAIN_MALLOC, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    run = subprocess.run(
        [sys.executable, "-c", KNOWN], capture_output=True, text=True, env=environment, check=True
    )
    found = json.loads(run.stdout)
    assert found["tensors"] == pytest.approx([128, 128], abs=2)
    assert found["small"] == pytest.approx([8], abs=2)  # an earlier, higher peak is forgotten
    assert found["native"] == pytest.approx([97], abs=2)
    assert found["growing"] == pytest.approx([32], abs=2)  # freed blocks are not counted


@pytest.mark.slow
def test_a_variant_is_measured_in_its_own_process():
    from bench.memory import in_own_process
    from bench.suites import cases

    case = cases("cpu", quick=True, suites=["info_nce"])[0]
    variant = next(v for v in case.variants(CPU) if v.name == "eager-fp32-product")
    peak = in_own_process(case, variant, quick=True)
    logits = case.count**2 * 4
    # float32 logits, log-softmax and its gradient: three matrices and two float32 copies
    assert 2.5 * logits < peak.bytes < 5 * logits, peak


def test_counts_of_a_known_call():
    left, right = torch.randn(64, 32), torch.randn(32, 48)

    def call():
        product = left @ right  # 64 x 48 floats
        return float(product.relu().sum())

    found = count(call)
    assert found.product_flop == 2 * 64 * 32 * 48
    assert found.peak_bytes >= 2 * 64 * 48 * 4 and found.peak_bytes < 2 * 64 * 48 * 4 + 1024
    assert found.allocations == 3 and found.syncs == 1
    assert found.dispatches == 4  # mm, relu, sum, the read
    assert count(lambda: left.t()).dispatches == 0


def test_graph_breaks_are_counted():
    def whole(x):
        return (x * 2).sum()

    def broken(x):
        y = x * 2
        print("a side effect", end="")
        return y.sum()

    assert graph_breaks(whole, torch.ones(3)) == 0
    assert graph_breaks(broken, torch.ones(3)) == 1


def test_rounds_take_turns_and_stop_in_time():
    order = []
    runs = {name: Run(lambda name=name: order.append(name), warm=True) for name in "abc"}
    samples = interleave(runs, CPU, seconds=0.0)
    assert "".join(order) == "abc"  # one round where even one takes longer than what is given
    order.clear()
    samples = interleave(runs, CPU, seconds=30.0)
    assert "".join(order[:9]) == "abcbcacab"
    assert {len(values) for values in samples.values()} == {timing.MOST_ROUNDS}


def test_a_cold_run_is_warmed_up_and_its_factor_counts():
    calls = []
    samples = interleave({"a": Run(lambda: calls.append(1), times=1e9)}, CPU, seconds=0.0)
    assert len(calls) == 2 and len(samples["a"]) == 1 and samples["a"][0] > 1e3


def test_spread_and_paired_ratio():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 1.8, 4.2)
    # the machine halves its speed: the ratio stays
    assert paired_ratio([1.0, 2.0, 2.0], [2.0, 4.0, 4.0]) == 0.5


@pytest.mark.parametrize("products, rows", [(1, 64), (3, 64), (4, 64), (3, 16)])
def test_the_floor_multiplies_what_it_says(monkeypatch, products, rows):
    left, right = torch.randn(64, 24), torch.randn(40, 24)
    monkeypatch.setitem(timing.LARGEST_FLOOR_BYTES, "cpu", rows * 40 * 4)
    run = floor_run(Gemms(left, right, products))
    assert run.times == 64 / rows
    assert count(run.call).product_flop * run.times == products * 2 * 64 * 24 * 40
