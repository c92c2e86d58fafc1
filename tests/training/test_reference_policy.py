"""The reference of the KL term: three ways to have it, one set of numbers."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from umer1.model.learned_rows import learn_rows
from umer1.training.policy_forward import ScoreForward
from umer1.training.reference_policy import ReferencePolicy
from umer1.training.rl_prompts import rl_prompt
from umer1.training.rollout_pack import RolloutGroup, pack_rollouts
from umer1.training.start import open_pairs, start
from umer1.training.wrapped import Trainee

CPU = torch.device("cpu")


@pytest.fixture
def world(rl_config):
    pairs = open_pairs(rl_config, "rl")
    model, processor = start(rl_config, pairs)
    tokens = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    groups = [RolloutGroup(rl_prompt(pair.query, processor), tokens, [1.0, -1.0]) for pair in pairs]
    return model, [pack_rollouts(part, CPU, 2, share=True) for part in (groups[:3], groups[3:])]


def _nudge(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", ["copy", "precomputed"])
def test_a_frozen_copy_keeps_the_weights_it_started_with(world, rl_config, kind):
    model, parts = world
    wanted = [ScoreForward(part, 1.0)(model) for part in parts]
    reference = ReferencePolicy(model, replace(rl_config, reference=kind), CPU)
    _nudge(model.parameters())
    trainee = Trainee(model.train())
    for _ in range(2):  # its weights are home again after a pass
        got = reference.score(trainee, parts, 1.0, nullcontext)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, wanted))
    assert not torch.allclose(ScoreForward(parts[0], 1.0)(model), wanted[0], atol=1e-3)


def _with_adapters(model):
    from peft import LoraConfig, inject_adapter_in_model

    return inject_adapter_in_model(LoraConfig(r=2, target_modules=["qkv", "down"]), model)


@pytest.mark.parametrize("rows", [(), (5, 8)])
def test_adapters_off_is_the_model_that_they_were_put_into(world, rl_config, rows):
    """Learned rows are the policy's, as its adapters are."""
    model, parts = world
    wanted = [ScoreForward(part, 1.0)(model) for part in parts]
    model = _with_adapters(model)
    if rows:
        learn_rows(model, rows)
    reference = ReferencePolicy(model, replace(rl_config, reference="lora"), CPU)
    assert reference.frozen is None
    _nudge(each for name, each in model.named_parameters() if "lora_" in name)
    trainee = Trainee(model.train())
    got = reference.score(trainee, parts, 1.0, nullcontext)
    for mine, theirs in zip(got, wanted):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    # and on again afterwards
    assert not torch.allclose(ScoreForward(parts[0], 1.0)(model), wanted[0], atol=1e-3)
    assert all(each.requires_grad for name, each in model.named_parameters() if "lora_" in name)


def test_adapters_off_needs_adapters_and_nothing_else_in_training(world, rl_config):
    model, _ = world
    config = replace(rl_config, reference="lora")
    with pytest.raises(ValueError, match="has no adapters"):
        ReferencePolicy(model, config, CPU)
    model = _with_adapters(model)
    model.decoder.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="decoder.norm.weight is trained too"):
        ReferencePolicy(model, config, CPU)
