"""apply_umer1_kernels: the patched model gives the loss and gradients of the unpatched one."""

import copy
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tiny_qwen import image_batch, qwen2, qwen2_vl, text_batch  # noqa: E402

from umer1_kernels import apply_umer1_kernels  # noqa: E402

TOLERANCE = 1e-5


def untied():
    return qwen2_vl(tie_word_embeddings=False)


MODELS = pytest.mark.parametrize("build", [qwen2_vl, untied, qwen2])


def no_logits(monkeypatch, model):
    """The head's own product must not be made."""
    linear = torch.nn.Linear.forward

    def forward(self, hidden):
        assert self is not model.lm_head, "logits were made"
        return linear(self, hidden)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)


def gradients(model, *losses):
    model.zero_grad()
    for loss in losses:
        loss.backward()
    used = ((name, value) for name, value in model.named_parameters() if value.grad is not None)
    return {name: value.grad.clone() for name, value in used}  # text does not use the vision tower


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        error = (got[name] - value).abs().max() / value.abs().max().clamp_min(1e-3)
        assert error < TOLERANCE, f"{name}: {error}"


@pytest.mark.parametrize(
    "build, batch",
    [(qwen2, text_batch), (qwen2_vl, text_batch), (qwen2_vl, image_batch), (untied, image_batch)],
)
def test_loss_and_gradients_are_the_models_own(build, batch, monkeypatch):
    model, inputs = build(), batch()
    expected = model(**inputs)
    expected_grads = gradients(model, expected.loss)

    report = apply_umer1_kernels(model)
    assert list(report.patched) == ["model"] and not report.skipped
    with monkeypatch.context() as patch:
        no_logits(patch, model)
        output = model(**inputs)
        got = gradients(model, output.loss)
    assert output.logits is None and list(output.keys())[0] == "loss" and output[0] is output.loss
    assert type(output) is type(expected)
    assert abs(output.loss - expected.loss) < TOLERANCE
    assert_same(got, expected_grads)

    report.restore()
    restored = model(**inputs)
    assert torch.equal(restored.logits, expected.logits)
    assert "forward" not in vars(model) and "forward" not in vars(model.lm_head)


@MODELS
@pytest.mark.parametrize("tensor", [True, False])
def test_gradient_accumulation(build, tensor):
    """Micro-batches with different numbers of tokens, each divided by the number of all tokens."""
    model = build()
    batches = [text_batch(seed=n, length=length) for n, length in enumerate((5, 12, 9))]
    count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    items = {"num_items_in_batch": torch.tensor(count) if tensor else count}
    expected = [model(**batch, **items).loss for batch in batches]
    expected_grads = gradients(model, *expected)
    apply_umer1_kernels(model)
    got = [model(**batch, **items).loss for batch in batches]
    assert_same(gradients(model, *got), expected_grads)
    assert torch.allclose(torch.stack(got), torch.stack(expected), atol=TOLERANCE)
    # and not the mean of the micro-batches' means
    means = torch.stack([model(**batch).loss for batch in batches]).mean()
    assert abs(means - torch.stack(got).sum()) > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_index": 7},
        {"shift_labels": torch.arange(27).view(3, 9)},
        {"shift_labels": torch.arange(27).view(3, 9), "num_items_in_batch": 11},
        {"num_items_in_batch": torch.tensor([5])},
        {"output_hidden_states": True},
    ],
    ids=["ignore_index", "shift_labels", "both", "items of one device", "hidden states"],
)
def test_loss_options(options):
    model, inputs = qwen2_vl(), text_batch()
    if "ignore_index" in options:
        inputs["labels"] = inputs["labels"].clamp_min(7)
    expected = model(**inputs, **options)
    apply_umer1_kernels(model)
    output = model(**inputs, **options)
    assert torch.allclose(output.loss, expected.loss, atol=TOLERANCE)
    assert output.loss.shape == expected.loss.shape
    assert (output.hidden_states is None) == (expected.hidden_states is None)


def test_logits_where_they_are_asked_for():
    model, inputs = qwen2_vl(), text_batch()
    labels = inputs.pop("labels")
    everything, last = model(**inputs).logits, model(**inputs, logits_to_keep=2).logits
    kept = model(**inputs, labels=labels[:, -4:], logits_to_keep=4)
    apply_umer1_kernels(model)
    assert torch.equal(model(**inputs).logits, everything)
    assert torch.equal(model(**inputs, logits_to_keep=2).logits, last)
    output = model(**inputs, labels=labels[:, -4:], logits_to_keep=4)
    assert torch.equal(output.logits, kept.logits) and torch.equal(output.loss, kept.loss)
    generated = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(generated[:, -3], everything[:, -1].argmax(1))


def test_positional_arguments_and_tuples():
    model, inputs = qwen2(), text_batch()
    expected = model(**inputs, return_dict=False)
    apply_umer1_kernels(model)
    output = model(**inputs, return_dict=False)
    assert isinstance(output, tuple) and torch.allclose(output[0], expected[0], atol=TOLERANCE)
    names = list(inspect.signature(model.forward).parameters)
    values = [inputs.get(name) for name in names[: names.index("labels") + 1]]
    assert torch.allclose(model(*values).loss, expected[0], atol=TOLERANCE)


def test_in_bfloat16_it_is_nearer_to_the_truth():
    truth_model, inputs = qwen2_vl(), text_batch()
    model = copy.deepcopy(truth_model).bfloat16()
    hidden = model(**inputs, output_hidden_states=True).hidden_states[-1].double()
    logits = (hidden @ model.lm_head.weight.double().T)[:, :-1].flatten(0, 1)
    truth = torch.nn.functional.cross_entropy(logits, inputs["labels"][:, 1:].flatten())
    own = model(**inputs).loss
    apply_umer1_kernels(model)
    ours = model(**inputs).loss
    assert ours.dtype == torch.float32
    assert abs(ours - truth) < 1e-6 * truth and abs(ours - truth) < abs(own - truth)


def test_autocast():
    model, inputs = qwen2_vl(), text_batch()
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(**inputs).loss
    apply_umer1_kernels(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    grads = gradients(model, loss)
    assert abs(loss - expected) < 0.02 * expected
    assert all(grad.dtype == torch.float32 for grad in grads.values())


def test_no_token_that_counts():
    model, inputs = qwen2(), text_batch()
    apply_umer1_kernels(model)
    loss = model(**inputs | {"labels": torch.full_like(inputs["labels"], -100)}).loss
    assert loss == 0
    assert not any(grad.any() for grad in gradients(model, loss).values())


def test_an_error_inside_leaves_no_loss_pending():
    model, inputs = qwen2(), text_batch()
    apply_umer1_kernels(model)
    with pytest.raises(ValueError, match="holds 61"):
        model(**inputs | {"labels": torch.full_like(inputs["labels"], 61)})
    assert model(input_ids=inputs["input_ids"]).logits is not None


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


@pytest.mark.slow
def test_compiled_as_one_graph():
    model, inputs = qwen2(), text_batch()
    apply_umer1_kernels(model)
    expected = model(**inputs).loss
    expected_grads = gradients(model, expected)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss = compiled(**inputs).loss
    assert torch.allclose(loss, expected)
    assert_same(gradients(model, loss), expected_grads)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["ddp", "fsdp", "fsdp with its own head"])
def test_on_two_processes(how, tmp_path):
    """Averaged gradients under DistributedDataParallel and fully_shard, tied head included."""
    script = Path(__file__).with_name("apply_cases.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, how, str(rank), "2", tmp_path / "store"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output


@pytest.mark.timeout(120)
def test_trainer_with_accumulation(tmp_path):
    """Two optimiser steps of three uneven micro-batches each: the same weights with and without."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    rows = [
        {
            name: value[0]
            for name, value in text_batch(rows=1, length=4 + 3 * (n % 4), seed=n).items()
        }
        for n in range(6)
    ]

    def train(patched):
        model = qwen2()
        if patched:
            apply_umer1_kernels(model)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=2, use_cpu=True,
            gradient_accumulation_steps=3, learning_rate=1e-2, report_to=[], save_strategy="no",
            optim="sgd", lr_scheduler_type="constant", logging_steps=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return model, losses

    (plain, plain_losses), (ours, our_losses) = train(False), train(True)
    assert our_losses == pytest.approx(plain_losses, abs=1e-4) and len(our_losses) == 2
    start = dict(qwen2().named_parameters())
    for name, value in plain.named_parameters():
        moved = (value - start[name]).abs().max()
        assert (dict(ours.named_parameters())[name] - value).abs().max() < 1e-4 * moved + 1e-7, name
