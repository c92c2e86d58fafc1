"""Every kernel compiles for GPUs that are not here, within the limits of bounds.json.

Read there: shared memory per program; registers per thread; bytes spilled to the stack (0 where
nothing is said; "odd" sizes cannot use 16-byte accesses, and float32 products are for the rare case
of TF32 or of skipped rows); 16-byte accesses that a kernel must have.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

FOLDER = Path(__file__).parent
BOUNDS = json.loads((FOLDER / "bounds.json").read_text())
TRITON = "triton " + ".".join(triton.__version__.split(".")[:2])


def run(*arguments: str):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(FOLDER.parents[2] / "kernels")
    environment["TRITON_DEFAULT_FP_FUSION"] = "0"  # launches say it themselves
    done = subprocess.run(
        [sys.executable, FOLDER / "ahead_of_time.py", *arguments],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def bound(what: str, name: str, otherwise: int) -> int:
    """Of this Triton where it has one of its own: an older one allots registers otherwise."""
    own = BOUNDS.get(TRITON, {}).get(what, {})
    return own.get(name, BOUNDS[what].get(name, otherwise))


def check(architecture: str, case: str, kernel: str, used: dict) -> None:
    product = kernel == "product_kernel"
    assert used["fused_multiply_adds"] is True
    assert used["shared"] <= BOUNDS["shared"][architecture]
    assert used["stack"] <= bound("spilled", case, 0)
    if "float64" not in case:
        assert used["registers"] <= bound("registers", kernel, 255)
    assert used["loads_16_bytes"] >= BOUNDS["needs_16_byte_loads"].get(kernel, 0)
    assert used["stores_16_bytes"] >= BOUNDS["needs_16_byte_stores"].get(kernel, 0)
    if product and case.split()[-1] in ("bfloat16", "float16"):
        assert used[BOUNDS["matrix_unit"][architecture]] > 0
        # a pipeline of loads that no thread waits for
        assert used["async_copies" if architecture == "sm_80" else "tma_loads"] >= 6
        assert used["stores_16_bytes"] >= 8
    if kernel == "attend_kernel" and case.endswith("bfloat16"):
        # one row's heads are too few for the large matrix units
        unit = "mma" if "suffix" in case else BOUNDS["matrix_unit"][architecture]
        assert used[unit] > 0 and used["async_copies"] >= 8
    if product and case.endswith("float32"):  # no TF32
        assert not any(used[unit] for unit in BOUNDS["matrix_unit"].values())


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_every_kernel(architecture):
    result = run(architecture)
    kernels = {kernel for case in result.values() for kernel in case}
    assert kernels == {
        "product_kernel", "merge_parts_kernel", "row_pools_kernel", "column_partials_kernel",
        "merge_partials_kernel", "gradient_kernel", "place_kernel", "scores_kernel", "gather_kernel", "scatter_kernel",
        "step_kernel", "attend_kernel", "merge_kernel", "group_kernel", "append_kernel", "pool_kernel",
        "cut_kernel", "kept_kernel", "choose_kernel",
    }  # fmt: skip
    for case, used_by in result.items():
        for kernel, used in used_by.items():
            check(architecture, case, kernel, used)


@pytest.mark.slow
def test_nothing_is_compiled_again_as_lengths_change():
    """1, 16, 17 and 33 rows after 96; 3 sequences after 8; groups of 5 after 8."""
    before, after = run("sm_90", "--lengths")
    assert before == after and before > 0
