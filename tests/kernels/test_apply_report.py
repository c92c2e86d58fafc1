"""What apply_umer1_kernels patches, what it skips and says, and how it is undone."""

import copy
import inspect
import re

import pytest
import torch

pytest.importorskip("transformers")

from tiny_qwen import (  # noqa: E402
    TOLERANCE,
    assert_same,
    gradients,
    image_batch,
    qwen2,
    qwen2_vl,
    text_batch,
    untied,
)

from umer1_kernels import apply_umer1_kernels  # noqa: E402


def test_twice_is_once_and_copies_are_patched_too():
    model, inputs = qwen2_vl(), text_batch()
    expected = model(**inputs).loss
    signature, keys = inspect.signature(model.forward), list(model.state_dict())
    apply_umer1_kernels(model)
    forward = model.forward
    again = apply_umer1_kernels(model)
    assert model.forward == forward and list(again.patched) == ["model"]
    assert inspect.signature(model.forward) == signature and list(model.state_dict()) == keys

    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert twin(**inputs).logits is None and abs(twin(**inputs).loss - expected) > 0.1
    assert abs(model(**inputs).loss - expected) < TOLERANCE
    again.restore()
    again.restore()
    assert model(**inputs).logits is not None and twin(**inputs).logits is None


def test_model_inside_another_module():
    holder = torch.nn.ModuleDict(
        {"base": torch.nn.ModuleDict({"policy": qwen2(), "other": qwen2_vl()})}
    )
    report = apply_umer1_kernels(holder)
    assert set(report.patched) == {"base.policy", "base.other"}
    assert holder.base.policy(**text_batch()).logits is None


def test_adapters():
    """A PeftModel holds the model; a head with an adapter of its own is more than its weight."""
    peft = pytest.importorskip("peft")
    inputs = image_batch()
    model = peft.get_peft_model(qwen2_vl(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    expected = model(**inputs)
    expected_grads = gradients(model, expected.loss)
    assert list(apply_umer1_kernels(model).patched) == ["base_model.model"]
    output = model(**inputs)
    assert output.logits is None and torch.allclose(output.loss, expected.loss, atol=TOLERANCE)
    got = gradients(model, output.loss)
    assert_same(got, expected_grads)
    assert all("lora" in name for name in got)

    for options in ({"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}):
        config = peft.LoraConfig(r=2, **{"target_modules": ["q_proj"]} | options)
        adapted = peft.get_peft_model(untied(), config)
        with pytest.raises(ValueError, match="lm_head is a peft"):
            apply_umer1_kernels(adapted)


def test_skips_with_a_reason_and_strict_raises():
    class Adapted(torch.nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) * 2

    def replaced(model):
        model.forward = lambda **inputs: None

    def adapted(model):
        model.lm_head = Adapted(32, 61, bias=False)

    def biased(model):
        model.lm_head = torch.nn.Linear(32, 61)

    def other_loss(model):
        model.loss_function = torch.nn.functional.cross_entropy

    cases = {
        replaced: "replaced on the instance",
        adapted: "lm_head is a .*Adapted, not a plain torch.nn.Linear",
        biased: "lm_head has a bias",
        other_loss: "its loss is cross_entropy",
    }
    for change, reason in cases.items():
        model = qwen2()
        change(model)
        before = dict(vars(model))
        with pytest.raises(ValueError, match=f"model: .*{reason}"):
            apply_umer1_kernels(model)
        report = apply_umer1_kernels(model, strict=False)
        assert not report.patched and re.search(reason, report.skipped["model"])
        assert re.search(f"skipped  model: .*{reason}", str(report)) and vars(model) == before

    with pytest.raises(ValueError, match="Linear holds none of Qwen2VLForConditionalGeneration"):
        apply_umer1_kernels(torch.nn.Linear(2, 2))
    assert apply_umer1_kernels(torch.nn.Linear(2, 2), strict=False).skipped


def test_strict_leaves_nothing_half_done():
    good, bad = qwen2(), qwen2()
    bad.lm_head = torch.nn.Linear(32, 61)
    holder = torch.nn.ModuleList([good, bad])
    with pytest.raises(ValueError, match="could not patch 1: lm_head has a bias"):
        apply_umer1_kernels(holder)
    assert good(**text_batch()).logits is not None
    report = apply_umer1_kernels(holder, strict=False)
    assert list(report.patched) == ["0"] and list(report.skipped) == ["1"]
    assert str(report).splitlines()[0].startswith("patched  0: Qwen2ForCausalLM")


def test_a_class_patched_by_another_project(monkeypatch):
    model = qwen2()

    def forward(self, labels=None, logits_to_keep=0):
        return None

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(ValueError, match="its forward comes from"):
        apply_umer1_kernels(model)


def test_restore_refuses_when_wrapped_since():
    model = qwen2()
    report = apply_umer1_kernels(model)
    inner = model.forward
    model.forward = lambda **inputs: inner(**inputs)
    with pytest.raises(RuntimeError, match="undo that first"):
        report.restore()
