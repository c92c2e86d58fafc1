"""The loss examples: each is imported, run, and its numbers are checked."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CASES = Path(__file__).with_name("loss_example_cases.py")


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_loop():
    module = example("losses_plain_loop")
    towers = module.train_towers()
    assert towers["first"] > 3 > 0.8 > towers["last"] and towers["hit@1"] > 0.9
    assert towers["scale"] > 8  # 7.4 at the start: it has a gradient
    language = module.train_language_model()
    assert language["first"] > 3 and language["last"] < 0.1
    assert all(difference < 1e-5 for difference in module.compare().values())


@pytest.mark.timeout(120)
def test_hf_trainer():
    pytest.importorskip("accelerate")
    result = example("losses_hf_trainer").compare()
    wrong = result.pop("wrong: mean of each micro-batch")
    assert wrong > 1 and len(result) == 3
    assert all(difference < 1e-5 for difference in result.values()), result


@pytest.mark.timeout(120)
def test_sentence_transformers():
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.util import dot_score

    module = example("losses_sentence_transformers")
    both = ("query_to_doc", "doc_to_query")
    settings = [
        {},
        {"columns": 2, "scale": 50.0},
        {"columns": 2, "directions": both, "partition_mode": "per_direction"},
        {"columns": 4, "directions": both, "partition_mode": "per_direction"},
        {"directions": both},
        {"directions": ("query_to_doc", "query_to_query")},
        {"columns": 2, "directions": ("query_to_doc", "doc_to_doc")},
        {"columns": 2, "directions": tuple(module.DIRECTIONS)},
        {"similarity_fct": dot_score, "scale": 1.0},
    ]
    for options in settings:
        result = module.compare(**options)
        assert result.pop("loss") > 0.1
        assert all(difference < 1e-5 for difference in result.values()), (options, result)
    with pytest.raises(ValueError, match="without negatives"):
        module.compare(3, directions=("query_to_doc", "doc_to_doc"))
    with pytest.raises(ValueError, match="hardness_mode"):
        module.compare(hardness_mode="all_negatives", hardness_strength=1.0)
    assert module.InfoNCELoss(torch.nn.Identity(), scale=9.0).get_config_dict()["scale"] == 9.0


@pytest.mark.parametrize("name", ["losses_open_clip", "losses_vlm2vec"])
def test_equal_in_float32_and_nearer_to_the_truth_in_bfloat16(name):
    module = example(name)
    single = module.compare()
    assert single["ours"] == pytest.approx(single["exact"], rel=1e-4)
    assert single["ours gradient error"] < 2e-5
    half = module.compare(torch.bfloat16)
    assert half["ours"] == pytest.approx(half["exact"], rel=1e-4)
    assert half["ours gradient error"] < 4e-3 < 0.03 < half["eager gradient error"]


def test_open_clip_call():
    module = example("losses_open_clip")
    torch.manual_seed(0)
    image, text = torch.randn(2, 5, 8, dtype=torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    output = module.ClipLoss(cache_labels=True)(image, text, scale, 0.7, output_dict=True)
    expected = module.eager(image, text, scale)
    assert torch.allclose(output["contrastive_loss"], expected)
    grads = [torch.autograd.grad(x, scale)[0] for x in (output["contrastive_loss"], expected)]
    assert torch.allclose(*grads)
    with pytest.raises(ValueError, match="gather_with_grad=True"):
        module.ClipLoss(local_loss=True, world_size=2)
    with pytest.raises(ValueError, match="use_horovod"):
        module.ClipLoss(use_horovod=True)


def test_vlm2vec_call():
    module = example("losses_vlm2vec")
    torch.manual_seed(0)
    x, y = torch.randn(4, 8), torch.randn(12, 8)
    target = torch.tensor([5, 0, 11, 3])
    rows = module.SimpleContrastiveLoss(0.5)(x, y, target, reduction="none")
    expected = torch.nn.functional.cross_entropy(x @ y.T / 0.5, target, reduction="none")
    assert torch.allclose(rows, expected, atol=1e-5)
    assert torch.allclose(
        module.SimpleContrastiveLoss(0.5)(x, y), module.eager(x, y, 0.5), atol=1e-5
    )


def test_ume_r1():
    module = example("losses_ume_r1")
    result = module.compare()
    assert result["loss"] > 10
    assert result["loss difference"] < 1e-4 and result["gradient difference"] < 1e-5
    assert result["ClipLoss difference"] < 1e-5
    with pytest.raises(ValueError, match="local_loss=True"):
        module.ClipLoss(local_loss=False)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [10, 96])
def test_grad_cache(chunk, dropout):
    result = example("losses_grad_cache").compare(chunk=chunk, dropout=dropout)
    assert result["loss difference"] < 1e-12 and result["largest gradient"] > 0.1
    assert result["gradient difference"] < 1e-12


@pytest.mark.timeout(120)
def test_distributed_forms(tmp_path):
    """Two gloo processes: each class has the value and the gradient of the one it replaces."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, CASES, str(rank), "2", tmp_path / "store"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=110)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output
