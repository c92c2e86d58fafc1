"""Every workload runs on a CPU, does the same work every time, and its products are the ones of its definition."""

import pytest
import torch

from umer1.profiling.profile import make_rows, operation_costs
from umer1.profiling.request import LOSS_SIZES, read
from umer1.profiling.roofs import Roofs
from umer1.profiling.trace import record
from umer1.profiling.workload import build

CPU = torch.device("cpu")
ROOFS = Roofs(1e10, {"float32": 1e11, "bfloat16": 2e11}, "")
SMALL = {
    "info_nce": "N=64,D=32",
    "dual_info_nce": "N=32,D=16,align=1",
    "linear_cross_entropy": "T=32,H=16,V=200",
    "linear_logprob": "T=32,H=16,V=200",
    "grpo_loss": "T=32,H=16,V=200",
    "group_reward": "N=4,G=3,D=16",
    "gather_hidden": "B=3,L=20,H=16",
}


def profiled(request):
    """Rows, and the trace."""
    workload = build(request)
    trace = record(workload, CPU)
    return make_rows(trace, operation_costs(trace.operations), ROOFS), trace


def products(rows, stage=None):
    """FLOPs of matrix products (and not of what has one FLOP per element)."""
    names = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "umer1_kernels::bf16")
    return sum(row.flop for row in rows if row.operator.startswith(names) and row.flop and row.stage in (stage or row.stage))  # fmt: skip


@pytest.mark.parametrize("loss", LOSS_SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_loss(loss, dtype):
    rows, trace = profiled(read("loss", loss=loss, shape=f"{SMALL[loss]},dtype={dtype}"))
    wanted = {"call", "forward"} | ({"backward"} if loss != "group_reward" else set())
    assert set(trace.stages) == wanted
    assert any(row.stage == "forward" for row in rows)


def test_info_nce_is_three_products():
    request = read("loss", shape="N=300,D=64", backend="cpu")
    rows, _ = profiled(request)
    by_element = 300 * 300 * 4
    assert products(rows) == pytest.approx(3 * 2 * 300 * 300 * 64, abs=by_element)
    about = build(request).about
    assert about[0].startswith("backend cpu") and "3 products" in about[1]


def test_cross_entropy_multiplies_live_tokens_alone():
    request = read(
        "loss", loss="linear_cross_entropy", shape="T=100,H=64,V=3000,live=25,dtype=fp32"
    )
    rows, _ = profiled(request)
    assert products(rows) == 3 * 2 * 25 * 64 * 3000


def test_prefill_runs_the_engine_once(monkeypatch):
    request = read("prefill", shape="prompts=2,tokens=10,image=6")
    rows, trace = profiled(request)
    assert {"engine", "vision", "prefill"} <= set(trace.stages)
    assert "decode" not in trace.stages
    # tiny: 4 layers, width 128, 4 query heads, 2 key-value heads of 32, inner width 384
    prompts, tokens, width, inner = 2, 2 * 16, 128, 384
    keys, rest = width * (width + 2 * 64), width * width + 3 * width * inner
    # of the last layer's outputs only those of the prompts' ends are made
    wanted = 3 * tokens * (keys + rest) + tokens * keys + prompts * rest
    assert products(rows, ("prefill",)) == 2 * wanted


def test_decode_counts_the_steps_after_the_prefill():
    request = read("decode", shape="prompts=2,tokens=10,image=0,samples=3,new=5")
    rows, trace = profiled(request)
    assert "prefill" not in trace.stages and "decode" in trace.stages
    per_token = 128 * 256 + 128 * 128 + 3 * 128 * 384
    # the first token comes from the prefill, the last one is not read
    assert products(rows, ("decode",)) == 2 * (2 * 3 * 4) * 4 * per_token


def test_sft_step_has_all_parts_and_leaves_the_weights_alone():
    workload = build(read("sft-step", shape="pairs=3,tokens=8,image=2,response=4"))
    assert workload.about == ["model tiny, 3 pairs, 78 packed tokens"]
    trace = record(workload, CPU)
    rows = make_rows(trace, operation_costs(trace.operations), ROOFS)
    assert set(trace.stages) == {"call", "forward", "vision", "decoder", "losses", "backward", "optimizer"}  # fmt: skip
    forward, backward = (products(rows, (stage,)) for stage in ("decoder", "backward"))
    assert backward > 2 * forward > 0
    assert any("adam" in row.operator for row in rows)


def test_rl_step_has_all_parts_and_repeats_itself():
    workload = build(read("rl-step", shape="pairs=2,generations=2,new=6"))
    trace = record(workload, CPU)
    names = {"rollouts", "prefill", "decode", "update", "decoder", "reference", "backward", "optimizer"}  # fmt: skip
    assert names <= set(trace.stages)
    rows = make_rows(trace, operation_costs(trace.operations), ROOFS)
    again = record(workload, CPU)  # the same rollouts: as many decoding steps
    counts = [sum(each.stage == "decode" for each in one.operations) for one in (trace, again)]
    assert counts[0] == counts[1] > 0 and any(row.stage == "decode" for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="--device cuda: torch sees no CUDA device"):
        build(read("loss", device="cuda"))


def test_a_backend_that_cannot_run_is_refused():
    with pytest.raises(ValueError, match="backend 'triton' cannot run info_nce"):
        build(read("loss", backend="triton"))
