"""Which backend runs, what explain says, and what happens without the compiled extension."""

import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import umer1_kernels as kernels
from umer1_kernels import backends, extension


def test_the_extension_is_loaded():
    """The other tests would silently cover less without it."""
    assert kernels.extension_status().loaded, kernels.extension_status().detail
    status = kernels.backend_status()
    assert status["reference"] == status["cpu"] == "available" and "triton" in status
    assert status["cuda"] == "available" or "CUDA" in status["cuda"]


def test_explain_says_what_runs_and_why():
    query = torch.randn(3, 4)
    assert kernels.explain(kernels.info_nce, query, query).backend == "cpu"
    assert (
        kernels.explain(kernels.info_nce, query, query, backend="reference").reason
        == "asked for by name"
    )
    half = kernels.explain("info_nce", query.half(), query.half())
    assert half.backend == "reference" and "float16" in half.reason
    dual = kernels.explain(kernels.dual_info_nce, (query, query), (query, query))
    assert (dual.function, dual.backend) == ("dual_info_nce", "cpu")
    ids = torch.zeros(3, dtype=torch.long)
    linear = kernels.explain(kernels.linear_cross_entropy, query, torch.randn(9, 4), ids)
    assert linear.backend == "cpu" and linear.plan.startswith("forward only: 1 products")
    query.requires_grad_()
    both = kernels.explain(kernels.info_nce, query, query)
    assert both.plan.startswith("both directions of kept logits: 3 products")
    alone = kernels.explain(kernels.info_nce_value_and_grad, query.detach(), query.detach())
    assert alone == both
    rows = kernels.explain(kernels.info_nce, query, query, reduction="none")
    assert rows.plan.startswith("forward only, then") and ": 4 products" in rows.plan
    with pytest.raises(ValueError, match="function is 'softmax'"):
        kernels.explain("softmax", query)


def test_a_backend_asked_for_by_name_never_falls_back():
    query = torch.randn(3, 4)
    with pytest.raises(ValueError, match="'cpu' cannot run info_nce: it takes"):
        kernels.info_nce(query.half(), query.half(), backend="cpu")
    with pytest.raises(ValueError, match="the inputs are on meta"):
        kernels.info_nce(query.to("meta"), query.to("meta"), backend="triton")
    with pytest.raises(ValueError, match="'triton' cannot run gather_hidden"):
        kernels.gather_hidden(query[None], torch.zeros(1, 3, dtype=torch.long), 0, backend="triton")
    with pytest.raises(ValueError, match="'cuda' cannot run group_reward: the inputs are on cpu"):
        kernels.group_reward(query[None], query[None], backend="cuda")
    with pytest.raises(ValueError, match="'cuda' cannot run grpo_loss: it has no native kernel"):
        backends.choose("grpo_loss", "cuda", query)
    with pytest.raises(ValueError, match="'cuda' cannot run gather_hidden: the inputs are on cpu"):
        kernels.GenerationGather(2, 4, 0, backend="cuda")


@pytest.fixture
def pretended_gpu(monkeypatch):
    """CUDA tensors without data, and an extension that says it has kernels for them."""
    monkeypatch.setattr(extension, "_has_cuda_kernels", True)
    with FakeTensorMode():
        yield


def test_what_the_cuda_kernels_take(pretended_gpu, monkeypatch):
    query = torch.empty(3, 4, 8, device="cuda")
    choice = backends.choose("group_reward", "cuda", query, query)
    assert choice.backend == "cuda" and "one launch" in choice.plan
    with pytest.raises(ValueError, match="it takes float32, bfloat16, float16, not torch.float64"):
        kernels.group_reward(query.double(), query.double(), backend="cuda")
    wide = torch.empty(2, 33, 8, device="cuda")
    with pytest.raises(ValueError, match="up to 32 rollouts per pair, not 33"):
        kernels.group_reward(wide, wide, backend="cuda")
    # no GPU has run them
    assert kernels.explain(kernels.group_reward, query, query).backend == "reference"
    monkeypatch.setattr(backends, "RECORDED_ON_GPU", frozenset({("cuda", "group_reward")}))
    assert kernels.explain(kernels.group_reward, query, query).backend == "cuda"
    monkeypatch.setattr(extension, "_has_cuda_kernels", False)
    with pytest.raises(ValueError, match="built without CUDA kernels"):
        kernels.group_reward(query, query, backend="cuda")


def test_shapes_of_the_cuda_operators(pretended_gpu):
    query = torch.empty(3, 4, 8, device="cuda", dtype=torch.bfloat16)
    result = kernels.group_reward(query, query, backend="cuda")
    assert [tuple(value.shape) for value in result] == [(3, 4)] * 4 + [(2, 3, 4)] * 2
    assert {value.dtype for value in result} == {torch.float32}
    ids = torch.zeros(3, 4, dtype=torch.long, device="cuda")
    vectors, index = kernels.gather_hidden(query, ids, 1, backend="cuda")
    assert vectors.shape == (3, 8) and vectors.dtype == torch.float32 and index.shape == (3,)
    gather = kernels.GenerationGather(5, 8, 1, device="cuda", backend="cuda")
    gather.step_(query[:, 0], ids[:, 0], ids[:, 0], ids[:, 0] == 0)


def test_without_the_extension_everything_runs_on_the_reference(monkeypatch, tmp_path):
    missing = extension.load(tmp_path / "_C.abi3.so")
    assert not missing.loaded and "pip install --no-build-isolation" in missing.detail
    monkeypatch.setattr(extension, "_status", missing)
    query = torch.randn(3, 4)
    choice = kernels.explain(kernels.info_nce, query, query)
    assert choice.backend == "reference" and "_C.abi3.so is not there" in choice.reason
    assert kernels.info_nce(query, query).isfinite()
    with pytest.raises(ValueError, match="_C.abi3.so is not there"):
        kernels.info_nce(query, query, backend="cpu")


def test_a_file_that_does_not_load_is_reported(tmp_path):
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"not a library")
    status = extension.load(broken)
    assert not status.loaded and f"does not load with torch {torch.__version__}" in status.detail


def test_a_library_of_older_sources_is_reported(monkeypatch):
    monkeypatch.setattr(extension, "OPERATORS", (*extension.OPERATORS, "newer_operator"))
    status = extension.load(extension.LIBRARY)
    assert not status.loaded and "lacks newer_operator" in status.detail


def test_import_needs_torch_alone():
    code = (
        "import sys, umer1_kernels;"
        "heavy = {'transformers', 'umer1', 'tokenizers', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
