"""apply_umer1_kernels: the patched model gives the loss and gradients of the unpatched one."""

import copy
import inspect

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

MODELS = pytest.mark.parametrize("build", [qwen2_vl, untied, qwen2])


def no_logits(monkeypatch, model):
    """The head's own product must not be made."""
    linear = torch.nn.Linear.forward

    def forward(self, hidden):
        assert self is not model.lm_head, "logits were made"
        return linear(self, hidden)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)


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
