"""A prompt that goes through the model once gives the numbers of one that goes through it with every completion."""

import pytest
import torch

from umer1.model.sequence import pack
from umer1.training.policy_forward import Objective, RLForward, ScoreForward
from umer1.training.rl_prompts import rl_prompt
from umer1.training.rollout_pack import RolloutGroup, filler, merge_prompts, pack_rollouts, pieces
from umer1.training.start import load_pairs, start

CPU = torch.device("cpu")
OBJECTIVE = Objective(
    completions=10, normalizer=7.0, per_length=False, clip=(0.2, 0.28), beta=0.04, temperature=0.7
)


@pytest.fixture
def world(rl_config):
    pairs = load_pairs(rl_config, "rl")
    model, processor = start(rl_config, pairs)
    return model.double(), processor, pairs


@pytest.fixture
def groups(world):
    """Text, picture and video prompts; completions of one token, of equal and of different lengths."""
    _, processor, pairs = world
    chance = torch.Generator().manual_seed(0)
    kinds = [
        next(pair.query for pair in pairs if pair.dataset == name)
        for name in ("pictures", "videos", "texts")
    ]
    return [
        RolloutGroup(
            rl_prompt(side, processor),
            [torch.randint(5, 200, (length,), generator=chance) for length in lengths],
            torch.randn(len(lengths), generator=chance).tolist(),
        )
        for side, lengths in zip(kinds, ([4, 1, 9], [6, 6, 3], [1, 2]))
    ]


def _loss_and_gradients(model, packs, ref=None):
    model.zero_grad()
    total = 0.0
    for number, part in enumerate(packs):
        outputs = RLForward(part, OBJECTIVE, ref_logprob=ref and ref[number])(model)
        outputs.loss.backward()
        total += float(outputs.loss.detach())
    return total, {name: each.grad.clone() for name, each in model.named_parameters()}


def test_loss_and_every_gradient_equal_those_of_unshared_prompts(world, groups):
    model, *_ = world
    single = pieces(groups, 10_000, share=False)
    wanted, gradients = _loss_and_gradients(model, [pack_rollouts(single, CPU, 2, share=False)])
    shared = pack_rollouts(groups, CPU, 2, share=True)
    assert len(shared.packed.input_ids) < sum(group.tokens for group in single)
    got, found = _loss_and_gradients(model, [shared])
    assert got == pytest.approx(wanted, rel=1e-9)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=1e-6, msg=name)
    # a group cut between completions brings its prompt twice and changes nothing
    capacity = len(groups[0].prompt) + 8
    cut = pieces(groups, capacity, share=True)
    assert len(cut) > len(groups)
    got, found = _loss_and_gradients(
        model, [pack_rollouts([piece], CPU, 2, share=True) for piece in cut]
    )
    assert got == pytest.approx(wanted, rel=1e-9)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=1e-6, msg=name)


def test_log_probabilities_are_those_of_each_completion_alone(world, groups):
    """At the sampling temperature, from one plain forward over prompt + completion."""
    model, *_ = world
    got = ScoreForward(pack_rollouts(groups, CPU, 2, share=True), 0.7)(model)
    wanted = []
    for group in groups:
        for tokens in group.completions:
            with torch.no_grad():
                hidden = model(pack([group.prompt.extend(tokens)]))[-len(tokens) - 1 : -1]
                logits = (hidden @ model.head_weight.T) / 0.7
            wanted.append(logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    torch.testing.assert_close(got.double(), torch.cat(wanted), atol=1e-9, rtol=1e-9)


def test_pieces_hold_every_completion_once_within_the_capacity(groups):
    for share in (True, False):
        capacity = max(len(group.prompt) for group in groups) + 8
        found = pieces(groups, capacity, share=share)
        assert all(piece.tokens <= capacity for piece in found)
        tokens = [each.tolist() for piece in found for each in piece.completions]
        wanted = [each.tolist() for group in groups for each in group.completions]
        assert sorted(tokens) == sorted(wanted)
    assert [len(piece.completions) for piece in pieces(groups, 1, share=True)] == [1] * 8


def test_equal_prompts_become_one_group(world, groups):
    _, processor, pairs = world
    again = rl_prompt(next(pair.query for pair in pairs if pair.dataset == "pictures"), processor)
    twin = RolloutGroup(again, [torch.tensor([9, 9])], [2.0])
    merged = merge_prompts([*groups, twin])
    assert len(merged) == 3
    assert merged[0].advantages == [*groups[0].advantages, 2.0]
    assert merged[0].completions[-1].tolist() == [9, 9]


def test_a_filler_takes_part_and_changes_nothing(world):
    model, processor, _ = world
    model.always_see = True
    part = pack_rollouts(filler(processor.eos_id), CPU, 2, share=True)
    outputs = RLForward(part, OBJECTIVE, ref_logprob=torch.zeros(1), weight=0.0)(model.train())
    outputs.loss.backward()
    assert [float(each.detach()) for each in outputs[:4]] == [0.0] * 4
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
