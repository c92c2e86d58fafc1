"""On a GPU: the profiler finds every kernel, knows its work, and no kernel beats the machine."""

import pytest
import torch

from umer1.profiling.profile import run
from umer1.profiling.request import read

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def test_a_loss_by_kernel():
    found = run(read("loss", shape="N=4096,D=1536", device="cuda", backend="triton"))
    rows = {row.operator: row for row in found.rows}
    products = sum(row.flop for row in found.rows if row.operator.startswith("aten::mm"))
    assert products == 3 * 2 * 4096 * 4096 * 1536
    for name in ("row_pools_kernel", "column_partials_kernel", "gradient_kernel"):
        assert rows[name].stage == "forward" and rows[name].bytes >= 4096 * 4096 * 4
    assert {"forward", "backward"} <= set(found.stages)
    # kernels that stream hundreds of megabytes cannot be faster than a copy
    assert all(rows[name].percent_of_roofline < 110 for name in ("row_pools_kernel", "gradient_kernel"))  # fmt: skip
    assert 0 < found.operator_seconds < 1.5 * found.traced_seconds


def test_masked_rows_are_not_counted():
    found = run(
        read(
            "loss",
            loss="linear_cross_entropy",
            shape="T=2048,H=1024,V=32768,live=25",
            device="cuda",
            backend="triton",
        )
    )
    [row] = [row for row in found.rows if row.operator == "product_kernel"]
    assert row.flop == 3 * 2 * 512 * 1024 * 32768


def test_prefill_and_decode_have_kernels_in_their_stages():
    prefill = run(read("prefill", shape="prompts=4,tokens=32,image=4", device="cuda"))
    assert any(row.stage == "vision" for row in prefill.rows)
    assert any(row.stage == "prefill" and row.kernels for row in prefill.rows)
    decode = run(read("decode", shape="prompts=4,tokens=32,image=0,new=4", device="cuda"))
    assert not any(row.stage == "prefill" for row in decode.rows)
    assert any(row.stage == "decode" for row in decode.rows)
