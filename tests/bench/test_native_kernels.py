"""On a GPU the benches of engine and trainer run our kernels before any result of them is recorded, and say which."""

import torch
from torch._subclasses import FakeTensorMode

import umer1_kernels as kernels
from bench.native_kernels import native_kernels
from bench.runner import measure
from bench.suites import cases
from umer1_kernels import backends, extension
from umer1_kernels.backends import HOW, choose


def test_our_kernels_run_while_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(extension, "_has_cuda_kernels", True)
    monkeypatch.setattr(backends, "RECORDED_ON_GPU", frozenset())
    with FakeTensorMode():
        vectors = torch.empty(3, 4, 8, device="cuda")
        with native_kernels() as ran:
            found = {name: choose(name, "auto", vectors).backend for name in HOW}
            assert found["group_reward"] == found["gather_hidden"] == "cuda"
            # float32 is nothing for our own small kernel
            assert {found[name] for name in HOW} == {"cuda", "triton"}
            assert found["info_nce"] == found["decode_attention"] == "triton"
        assert {name: {backend} for name, backend in found.items()} == ran
        assert kernels.explain(kernels.group_reward, vectors, vectors).backend == "reference"
    assert backends.RECORDED_ON_GPU == frozenset() and backends.Choice is type(choose("info_nce", "auto"))  # fmt: skip


def test_a_row_says_which_kernels_ran():
    [case] = cases("cpu", quick=True, suites=["engine_decode"])
    ours, *_ = measure(case, torch.device("cpu"), families=[], seconds=0.1, quick=True)
    assert ours["status"] == "ok"
    assert ours["kernels"] == {
        name: ["cpu"]
        for name in ("append_kv", "decode_attention", "gather_hidden", "sample_tokens")
    }
    assert "; append_kv cpu; decode_attention cpu; " in ours["plan"]
