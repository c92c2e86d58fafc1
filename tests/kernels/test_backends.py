"""Which backend runs, what explain says, and what happens without the compiled extension."""

import os
import subprocess
import sys

import pytest
import torch

import umer1_kernels as kernels
from umer1_kernels import extension


def test_the_extension_is_loaded():
    """The other tests would silently cover less without it."""
    assert kernels.extension_status().loaded, kernels.extension_status().detail
    status = kernels.backend_status()
    assert status["reference"] == status["cpu"] == "available" and "triton" in status


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
