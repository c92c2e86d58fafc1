"""bfloat16 under autocast: float32 weights, bfloat16 products, the loss and the gradient of float32."""

import pytest
import torch
import torch.nn.functional as F

from tests.training.sft_cases import batch_of, encoded_pairs, gradients, objective, trainee_of
from umer1.training import objectives


@pytest.fixture
def world(sft_config):
    model, processor, encoded = encoded_pairs(sft_config)
    return trainee_of(model), processor, encoded


def _narrow(trainee, batch, wanted, **options):
    forward = trainee.forward

    def autocast(work):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(work)

    trainee.forward = autocast
    try:
        return gradients(trainee, batch, wanted, **options)
    finally:
        del trainee.forward


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradient_agree_with_float32(world, checkpointing):
    trainee, processor, encoded = world
    wanted = objective(processor)
    numbers, wide = gradients(trainee, batch_of(encoded), wanted)
    trainee.model.gradient_checkpointing = checkpointing
    found, narrow = _narrow(trainee, batch_of(encoded), wanted)
    torch.testing.assert_close(
        torch.stack(found)[:6], torch.stack(numbers)[:6], rtol=0.03, atol=0.03
    )
    for name, gradient in wide.items():
        assert narrow[name].dtype == torch.float32
        assert (
            float(F.cosine_similarity(narrow[name].flatten(), gradient.flatten(), dim=0)) > 0.97
        ), name


def test_parts_agree_with_the_whole(world):
    trainee, processor, encoded = world
    wanted = objective(processor)
    whole = _narrow(trainee, batch_of(encoded), wanted)[1]
    parts = _narrow(trainee, batch_of(encoded, tokens=60), wanted)[1]
    for name, gradient in whole.items():
        assert (
            float(F.cosine_similarity(parts[name].flatten(), gradient.flatten(), dim=0)) > 0.99
        ), name


def test_the_head_and_the_residual_stream_are_bfloat16(world, monkeypatch):
    trainee, processor, encoded = world
    seen = []
    cross_entropy = objectives.kernels.linear_cross_entropy

    def spy(hidden, weight, *rest, **options):
        seen.append((hidden.dtype, weight.dtype))
        return cross_entropy(hidden, weight, *rest, **options)

    monkeypatch.setattr(objectives.kernels, "linear_cross_entropy", spy)
    layer = trainee.model.decoder.layers[-1]
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    _narrow(trainee, batch_of(encoded), objective(processor))
    assert seen == [torch.bfloat16, (torch.bfloat16, torch.bfloat16)]
