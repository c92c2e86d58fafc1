"""Freeze rules: which parameters move, and that the others keep their bits."""

import dataclasses

import pytest
import torch

from tests.training.sft_cases import batch_of, encoded_pairs, gradients, objective
from umer1.training.loop import make_optimizer
from umer1.training.settings import LoRAConfig
from umer1.training.trainable import choose_trainable
from umer1.training.wrapped import Trainee

RULES = {
    "released": (dict(freeze_vision=True), {"merger", "decoder"}),
    "all": (dict(freeze_vision=False), {"tower", "merger", "decoder"}),
    "decoder alone": (dict(freeze_vision=True, freeze_merger=True), {"decoder"}),
    "merger alone": (dict(freeze_vision=True, freeze_decoder=True), {"merger"}),
    "tower alone": (dict(freeze_vision=False, freeze_merger=True, freeze_decoder=True), {"tower"}),
    "lora": (dict(freeze_vision=True, lora=LoRAConfig(rank=2)), {"merger", "lora"}),
    "lora alone": (dict(freeze_vision=True, freeze_merger=True, lora=LoRAConfig(rank=2)), {"lora"}),
}


def _kind(name):
    if ".lora_" in name:
        return "lora"
    if name.startswith("model.vision.merger."):
        return "merger"
    return "tower" if name.startswith("model.vision.") else "decoder"


@pytest.mark.parametrize("rule", RULES)
def test_what_is_frozen_keeps_its_bits_and_the_rest_moves(sft_config, rule):
    change, moving = RULES[rule]
    config = dataclasses.replace(sft_config, **change)
    config.optimizer.weight_decay = 0.1
    config.optimizer.learning_rate = 1e-2
    model, processor, encoded = encoded_pairs(config, (0, 9, 17))
    tokens = (processor.gen_id, processor.disc_id)
    trainee = Trainee(choose_trainable(model, config, tokens), scale=50.0).train()
    optimizer = make_optimizer(trainee, config)
    before = {name: each.detach().clone() for name, each in trainee.named_parameters()}
    for checkpointing in (False, True, True):  # B of LoRA moves first, then A
        model.gradient_checkpointing = checkpointing
        found = gradients(trainee, batch_of(encoded, tokens=60), objective(processor))[1]
        for name, parameter in trainee.named_parameters():
            parameter.grad = found.get(name)
        optimizer.step()
    for name, parameter in trainee.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (name == "log_scale" or _kind(name) in moving), name


@pytest.mark.parametrize("change", [
    dict(), dict(freeze_vision=False), dict(generative=False), dict(lora=LoRAConfig(rank=2)),
    dict(generative=False, freeze_vision=False, lora=LoRAConfig(rank=2)),
])  # fmt: skip
def test_what_is_trained_has_a_gradient_of_texts_alone_too(sft_config, change):
    """A checkpoint holds the optimizer's state of all that is trained; other processes wait for it."""
    config = dataclasses.replace(sft_config, freeze_vision=True)
    config = dataclasses.replace(
        config, tiny={**config.tiny, "tie_word_embeddings": False}, **change
    )
    model, processor, encoded = encoded_pairs(config, (16, 17), generative=config.generative)
    tokens = (processor.gen_id, processor.disc_id)
    trainee = Trainee(choose_trainable(model, config, tokens)).train()
    wanted = objective(processor, generative=config.generative)
    found = gradients(trainee, batch_of(encoded), wanted)[1]
    assert {name for name, each in trainee.named_parameters() if each.requires_grad} == found.keys()
    vision = [each for name, each in found.items() if name.startswith("model.vision.")]
    assert vision and not any(each.any() for each in vision)


def test_the_scale_does_not_decay(sft_config):
    model = encoded_pairs(sft_config, (17,))[0]
    sft_config.optimizer.weight_decay = 0.1
    groups = make_optimizer(Trainee(model, scale=50.0), sft_config).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [tuple(each.shape) for each in groups[1]["params"]] == [(1,)]


@pytest.mark.parametrize("change, message", [
    (dict(freeze_merger=True, freeze_decoder=True, freeze_vision=True), "nothing is left to train"),
    (dict(freeze_decoder=True, lora=LoRAConfig(rank=2)), "no place for lora"),
])  # fmt: skip
def test_rules_that_leave_nothing_are_refused(sft_config, change, message):
    config = dataclasses.replace(sft_config, **change)
    with pytest.raises(ValueError, match=message):
        choose_trainable(encoded_pairs(sft_config, (17,))[0], config)
