"""Every loss's small shapes under pytest-benchmark: `pytest bench --benchmark-only`, grouped by case.

Times of one variant at a time; `python -m bench` interleaves them and is what results are taken from.
"""

import pytest
import torch

from bench.case import PEER_TOLERANCE, errors, step
from bench.suites import cases

pytest.importorskip("pytest_benchmark")
CPU = torch.device("cpu")
FAMILIES = ["eager", "torch", "loop", "sentence-transformers"]
PAIRS = [
    pytest.param(case, variant, id=f"{case.suite}-{case.name}-{variant.name}")
    for case in cases("cpu", quick=True)
    if case.counted  # the engine's take seconds
    for variant in case.chosen(CPU, FAMILIES)
]


@pytest.mark.parametrize("case, variant", PAIRS)
def test_step(benchmark, case, variant):
    if variant.unavailable:
        pytest.skip(variant.unavailable)
    problem = case.build(CPU)
    found = errors(step(variant.function, problem), case.truth(problem))
    assert max(found.values()) <= PEER_TOLERANCE
    benchmark.group = f"{case.suite} {case.name}"
    benchmark.extra_info["errors"] = found
    benchmark(step, variant.function, problem)
