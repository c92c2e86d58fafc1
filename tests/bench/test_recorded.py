"""A kernel is a default on a GPU if a committed result speaks for it."""

from pathlib import Path

from gpu_results import row

from bench.recorded import recorded
from bench.results import load
from umer1_kernels.backends import RECORDED_ON_GPU

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def test_what_is_a_default_has_a_result():
    rows = [row for path in RESULTS.glob("*.json") for row in load(path)]
    assert RECORDED_ON_GPU <= recorded(rows)


def test_a_kernel_needs_a_good_row_and_none_that_failed():
    both = {"append_kv": ["triton"], "gather_hidden": ["cuda"]}
    rows = [
        row("engine", kernels=both),
        row("losses", kernels={"info_nce": ["triton"], "group_reward": ["reference"]}),
        row("dual", "umer1-cuda", "failed: RuntimeError", kernels={"gather_hidden": ["cuda"]}),
        row("cpu", device="cpu", kernels={"sample_tokens": ["triton"]}),
        row("peer", "eager"),
    ]
    assert recorded(rows) == {("triton", "append_kv"), ("triton", "info_nce")}
