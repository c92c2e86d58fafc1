"""The objective against the formula written out in float64."""

from dataclasses import replace

import pytest
import torch

from umer1.training.policy_forward import Objective, RLForward
from umer1.training.rl_prompts import rl_prompt
from umer1.training.rollout_pack import RolloutGroup, pack_rollouts
from umer1.training.start import load_pairs, start

OBJECTIVE = Objective(
    completions=6, normalizer=2048.0, per_length=False, clip=(0.2, 0.28), beta=0.04, temperature=0.8
)


@pytest.fixture
def world(rl_config):
    pairs = load_pairs(rl_config, "rl")
    model, processor = start(rl_config, pairs)
    prompts = [rl_prompt(pair.query, processor) for pair in pairs[:2]]
    groups = [
        RolloutGroup(prompts[0], [torch.tensor([5, 6, 7, 8]), torch.tensor([9])], [1.5, -0.5]),
        RolloutGroup(prompts[1], [torch.tensor([10, 11]), torch.tensor([12, 5, 6])], [-1.0, 0.7]),
    ]
    return model.double(), pack_rollouts(groups, torch.device("cpu"), 2, share=True)


def _written_out(model, part, old, ref, objective):
    """L from logits, every token on its own."""
    from umer1.training.policy_forward import completion_states

    logits = completion_states(model, part) @ model.head_weight.T / objective.temperature
    logprob = logits.log_softmax(-1)[torch.arange(len(part.ids)), part.ids]
    total, kls, clipped = 0.0, [], 0
    for token in range(len(part.ids)):
        ratio = (logprob[token] - (logprob[token].detach() if old is None else old[token])).exp()
        advantage = part.advantage[token].double()
        bounded = ratio.clamp(1 - 0.2, 1 + 0.28)
        clipped += bool(bounded * advantage < ratio * advantage)
        kl = (ref[token] - logprob[token]).exp() - (ref[token] - logprob[token]) - 1
        divisor = float(part.length[token]) if objective.per_length else objective.normalizer
        loss = -torch.minimum(ratio * advantage, bounded * advantage) + objective.beta * kl
        total = total + loss / (divisor * objective.completions)
        kls.append(float(kl.detach()))
    entropy = -(logits.log_softmax(-1).exp() * logits.log_softmax(-1)).sum()
    return total, sum(kls), clipped, float(entropy.detach()), logprob.detach()


@pytest.mark.parametrize("per_length", [False, True])
@pytest.mark.parametrize("second_update", [False, True])
def test_loss_gradient_and_numbers(world, per_length, second_update):
    model, part = world
    objective = replace(OBJECTIVE, per_length=per_length)
    chance = torch.Generator().manual_seed(3)
    now = _written_out(model, part, None, torch.zeros(10).double(), objective)[-1]
    ref = now + 0.3 * torch.randn(10, generator=chance, dtype=torch.float64)
    # ratios of 0.5 to 2 on both signs of the advantage: both ends of the clip are met
    old = now + torch.linspace(-0.7, 0.7, 10).double() if second_update else None
    model.zero_grad()
    got = RLForward(part, objective, old, ref, want_logprob=True)(model)
    got.loss.backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}  # fmt: skip
    model.zero_grad()
    loss, kl, clipped, entropy, logprob = _written_out(model, part, old, ref, objective)
    loss.backward()
    assert float(got.loss) == pytest.approx(float(loss), rel=1e-9)
    assert float(got.kl) == pytest.approx(kl, rel=1e-9)
    assert round(float(got.clipped)) == clipped and (clipped > 0) == second_update
    assert float(got.entropy) == pytest.approx(entropy, rel=1e-6)
    torch.testing.assert_close(got.logprob.double(), logprob, atol=1e-9, rtol=1e-9)
    for name, gradient in gradients.items():
        wanted = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=1e-6, msg=name)


def test_the_first_update_has_ratio_one_without_old_log_probabilities(world):
    """r = 1 by construction: the same gradient as with the log-probabilities of this very policy as old ones."""
    model, part = world
    first = RLForward(part, OBJECTIVE, want_logprob=True)(model)
    second = RLForward(part, OBJECTIVE, first.logprob)(model)
    assert float(first.clipped) == float(second.clipped) == 0
    gradients = [torch.autograd.grad(each.loss, model.decoder.norm.weight) for each in (first, second)]  # fmt: skip
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=0)


def test_temperature_reaches_the_log_probabilities(world):
    model, part = world
    cold, warm = (
        RLForward(part, replace(OBJECTIVE, temperature=value), want_logprob=True)(model).logprob
        for value in (0.5, 1.0)
    )
    assert not torch.allclose(cold, warm, atol=1e-3)
