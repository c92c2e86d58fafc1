"""Sampling: greedy, truncated, seeded per row."""

import numpy as np
import pytest
import torch

from umer1.engine.requests import Prompt, Sampling, prompt_seed, row_seed
from umer1_kernels import sample_tokens
from umer1_kernels.reference.sampler import uniforms as device_uniforms


def _rows(count, base=0):
    return [row_seed(base, number, 0) for number in range(count)]


def _signed(seeds):
    return torch.tensor([seed - (seed >> 63 << 64) for seed in seeds])


def sample(logits, sampling, seeds, steps):
    return sample_tokens(
        logits.contiguous(),
        _signed(seeds),
        torch.tensor(steps),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    )


def uniforms(seeds, steps):
    return device_uniforms(_signed(seeds), torch.tensor(steps)).numpy()


def test_greedy_takes_the_most_likely_token_and_its_log_probability():
    logits = torch.randn(5, 37)
    tokens, logprobs = sample(logits, Sampling(temperature=0), _rows(5), [0] * 5)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


def test_a_row_samples_the_same_token_in_any_batch_and_order():
    logits = torch.randn(16, 50)
    seeds, steps = _rows(16), list(range(16))
    sampling = Sampling(temperature=0.8, top_p=0.9, top_k=20)
    together, _ = sample(logits, sampling, seeds, steps)
    order = torch.randperm(16)
    shuffled, _ = sample(
        logits[order], sampling, [seeds[i] for i in order], [steps[i] for i in order]
    )
    assert torch.equal(shuffled, together[order])
    alone = torch.cat(
        [
            sample(logits[i : i + 1], sampling, seeds[i : i + 1], steps[i : i + 1])[0]
            for i in range(16)
        ]
    )
    assert torch.equal(alone, together)


def test_frequencies_follow_the_softmax_at_the_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows = 20000
    tokens, _ = sample(
        logits.expand(rows, -1), Sampling(temperature=2.0), _rows(rows, base=7), [3] * rows
    )
    counted = torch.bincount(tokens, minlength=4) / rows
    torch.testing.assert_close(counted, torch.softmax(logits / 2, -1), atol=0.012, rtol=0)


@pytest.mark.parametrize(
    "sampling, allowed",
    [
        (Sampling(temperature=1.0, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.6), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.4), {0}),
    ],
)
def test_truncation_keeps_exactly_the_allowed_tokens(sampling, allowed):
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().expand(4000, -1)
    tokens, logprobs = sample(logits, sampling, _rows(4000), [0] * 4000)
    assert set(tokens.tolist()) == allowed
    # the trainer's log-probability is that of the whole vocabulary, not of the kept tokens
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[0][tokens])


def test_tokens_of_probability_zero_are_never_sampled():
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0]).expand(3000, -1)
    tokens, _ = sample(logits, Sampling(temperature=1.0), _rows(3000), [0] * 3000)
    assert set(tokens.tolist()) == {1, 3}


def test_uniform_numbers_differ_by_seed_and_step_and_look_uniform():
    values = uniforms(_rows(4000), [0] * 4000)
    assert len(np.unique(values)) == 4000 and values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02
    assert uniforms([5], [0]) != uniforms([5], [1])


@pytest.mark.parametrize(
    "bad",
    [
        dict(max_new_tokens=0),
        dict(temperature=-1),
        dict(temperature=float("nan")),
        dict(top_p=0),
        dict(top_p=1.5),
        dict(top_k=-1),
        dict(stop="never"),
        dict(temperature=float("inf")),
        dict(max_think_tokens=-1),
    ],
)
def test_bad_settings_name_the_argument(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


def test_a_seed_of_its_own_makes_a_prompt_independent_of_its_number():
    settings = Sampling(temperature=1.0, seed=3)
    numbered = [prompt_seed(Prompt(None, number), settings, 0) for number in (1, 2)]
    own = [prompt_seed(Prompt(None, number, seed=9), settings, 0) for number in (1, 2)]
    assert numbered[0] != numbered[1] and own[0] == own[1]
    assert own[0] != prompt_seed(Prompt(None, 1, seed=9), settings, 1)
    assert own[0] != prompt_seed(Prompt(None, 1, seed=8), settings, 0)
    assert numbered[0] == row_seed(3, 1, 0) and 0 <= numbered[0] < 1 << 64
