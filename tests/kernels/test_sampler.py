"""sample_tokens: the token of the definition, seeds, truncation and its edges, frequencies."""

import numpy as np
import pytest
import sampler_truth
import torch

import umer1_kernels as kernels
from umer1_kernels import sample_tokens
from umer1_kernels.reference.sampler import uniforms

VOCABULARY = 151_936
# u this close to an edge between tokens may fall on either side of it: float32 probabilities
EDGE = 1e-6
SETTINGS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.7, "top_p": 0.2},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.3, "top_k": 20},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 10_000},
]


def rows(count: int, size: int, spread: float = 3.0):
    """logits, seeds (of all 64 bits) and steps."""
    seed = torch.randint(-(2**63), 2**63 - 1, (count,))
    return spread * torch.randn(count, size), seed, torch.randint(0, 5000, (count,))


def agrees(got, logits, seed, step, settings: list[dict]) -> int:
    """Assert the definition's token and log-probability in every row; how many rows were near an edge."""
    near = 0
    for row, options in enumerate(settings):
        arguments = (logits[row].double().numpy(), int(seed[row]), int(step[row]))
        token, logprob, margin = sampler_truth.sample(*arguments, **options)
        if margin < EDGE:
            near += 1
            continue
        assert int(got.token[row]) == token
        assert float(got.logprob[row]) == pytest.approx(logprob, abs=2e-6, rel=2e-6)
    return near


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 2, 50, 1003])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_the_definitions_token(options, size, dtype, backend, poisoned_memory):
    logits, seed, step = rows(24, size)
    logits = logits.to(dtype)
    if dtype == torch.float64 and backend == "cpu":
        backend = "auto"
    got = sample_tokens(logits, seed, step, **options, backend=backend)
    assert got.token.dtype == torch.int64
    assert got.logprob.dtype == torch.promote_types(dtype, torch.float32)
    assert agrees(got, logits, seed, step, [options] * 24) <= 1


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_a_vocabulary_of_real_size(spread, backend):
    """Flat (all tokens alike), wide and peaked, each with every kind of truncation."""
    options = SETTINGS[:4] + SETTINGS[6:8] + [{"temperature": 1.0, "top_k": 400}]
    logits, seed, step = rows(len(options), VOCABULARY, spread)
    table = {name: [each.get(name, default) for each in options]
             for name, default in (("temperature", 0.0), ("top_p", 1.0), ("top_k", 0))}  # fmt: skip
    settings = {name: torch.tensor(values) for name, values in table.items()}
    got = sample_tokens(logits, seed, step, **settings, backend=backend)
    assert agrees(got, logits, seed, step, options) <= 1


def test_rows_of_one_batch_are_their_own(backend):
    """Different settings side by side, in any order and alone: the same token, the same bits."""
    options = [SETTINGS[row % len(SETTINGS)] for row in range(36)]
    logits, seed, step = rows(36, 700)
    table = {name: torch.tensor([each.get(name, default) for each in options])
             for name, default in (("temperature", 0.0), ("top_p", 1.0), ("top_k", 0))}  # fmt: skip
    together = sample_tokens(logits, seed, step, **table, backend=backend)
    assert agrees(together, logits, seed, step, options) <= 1
    order = torch.randperm(36)
    shuffled = {name: values[order] for name, values in table.items()}
    mixed = sample_tokens(logits[order], seed[order], step[order], **shuffled, backend=backend)
    assert torch.equal(mixed.token, together.token[order])
    for row in range(36):
        one = slice(row, row + 1)
        alone = sample_tokens(logits[one], seed[one], step[one], **options[row], backend=backend)
        assert torch.equal(alone.token, together.token[one])
        if backend == "cpu":
            assert torch.equal(alone.logprob, together.logprob[one])
            assert torch.equal(mixed.logprob, together.logprob[order])


def test_uniform_numbers_are_those_of_the_seed_and_step():
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 123456789, -987654321012345678]
    steps = [0, 1, 2, 8191, 0, 77, 2**31]
    got = uniforms(torch.tensor(seeds), torch.tensor(steps))
    wanted = [sampler_truth.uniform(seed, step) for seed, step in zip(seeds, steps)]
    assert got.dtype == torch.float64 and got.tolist() == wanted
    many = uniforms(torch.arange(20_000), torch.zeros(20_000, dtype=torch.long))
    assert many.min() >= 0 and many.max() < 1 and len(many.unique()) == 20_000


@pytest.mark.parametrize("options, kept", [
    ({"temperature": 2.0}, 8), ({"temperature": 2.0, "top_k": 4}, 4),
    ({"temperature": 2.0, "top_p": 0.7}, 4),
], ids=str)  # fmt: skip
def test_frequencies(options, kept, backend):
    """Chi-square of 40,000 draws against the kept tokens' probabilities: below its 99.9th percentile."""
    logits = torch.tensor([1.0, 3.0, -1.0, 2.5, 0.0, 2.0, 1.5, -2.0])
    draws = 40_000
    seed, step = torch.arange(draws), torch.full((draws,), 3)
    token = sample_tokens(logits.expand(draws, -1), seed, step, **options, backend=backend).token
    counted = np.bincount(token.numpy(), minlength=8)
    probability = torch.softmax(logits.double() / 2, 0)
    probability[probability.argsort(descending=True)[kept:]] = 0
    expected = (draws * probability / probability.sum()).numpy()
    live = expected > 0
    assert live.sum() == kept and (counted[~live] == 0).all()
    square = ((counted[live] - expected[live]) ** 2 / expected[live]).sum()
    assert square < {8: 24.3, 4: 16.3}[kept]


def test_equal_logits_go_to_the_lower_token(backend):
    logits = torch.zeros(4000, 8)
    seed, step = torch.arange(4000), torch.zeros(4000, dtype=torch.long)
    run = lambda **options: set(
        sample_tokens(logits, seed, step, **options, backend=backend).token.tolist()
    )
    assert run() == {0}
    assert run(temperature=1.0) == set(range(8))
    assert run(temperature=1.0, top_k=3) == {0, 1, 2}
    assert run(temperature=1.0, top_p=0.5) == {0, 1, 2, 3}  # four of them have exactly half
    assert run(temperature=1.0, top_p=0.51) == {0, 1, 2, 3, 4}
    assert run(temperature=1.0, top_p=1e-6) == {0}
    assert run(temperature=1.0, top_k=4, top_p=0.5) == {0, 1}
    logits = torch.tensor([0.0, 1.0, -0.0, 1.0, 0.0]).expand(4000, -1)
    assert run(temperature=1.0, top_k=3) == {0, 1, 3}
    assert run(temperature=1.0, top_k=4) == {0, 1, 2, 3}


def test_tokens_that_cannot_be_taken(backend):
    """Probability 0, by minus infinity or by underflow, also where u is almost 0 or 1."""
    infinity = float("inf")
    logits = torch.tensor([-infinity, 0.0, -200.0, -infinity, 0.0, -infinity]).expand(3000, -1)
    seed, step = torch.arange(3000), torch.zeros(3000, dtype=torch.long)
    for options in ({}, {"top_k": 5}, {"top_p": 0.999}, {"top_k": 6, "top_p": 0.9}):
        options = {"temperature": 1.0} | options
        token, logprob = sample_tokens(logits, seed, step, **options, backend=backend)
        assert set(token.tolist()) == {1, 4}
        torch.testing.assert_close(logprob, torch.full((3000,), -0.5).exp().log() * 2 * 0.6931472)
    long = torch.full((2, 5000), -infinity)
    long[:, 4321] = -7.0
    token, logprob = sample_tokens(long, seed[:2], step[:2], temperature=1.0, backend=backend)
    assert token.tolist() == [4321] * 2 and logprob.tolist() == [0.0] * 2


def test_forced_tokens(backend):
    logits, seed, step = rows(12, 300)
    for options in SETTINGS[:5]:
        free = sample_tokens(logits, seed, step, **options, backend=backend)
        forced = torch.where(torch.arange(12) % 3 == 0, torch.arange(12) * 7, -1)
        got = sample_tokens(logits, seed, step, **options, forced=forced, backend=backend)
        assert torch.equal(got.token, torch.where(forced >= 0, forced, free.token))
        scaled = logits / (options.get("temperature", 0) or 1.0)
        wanted = torch.log_softmax(scaled, -1).gather(1, got.token[:, None])[:, 0]
        torch.testing.assert_close(got.logprob, wanted, rtol=1e-5, atol=3e-6)


def test_strided_rows_and_integers_of_any_width(backend):
    logits, seed, step = rows(5, 40)
    options = {"temperature": 1.0, "top_k": torch.full((5,), 7)}
    wanted = sample_tokens(logits, seed, step, **options, backend=backend)
    for other in (torch.cat([logits, logits], 1)[:, :40], logits.T.contiguous().T):
        got = sample_tokens(other, seed, step.int(), **options, backend=backend)
        assert torch.equal(got.token, wanted.token)
        torch.testing.assert_close(got.logprob, wanted.logprob)
    assert sample_tokens(logits[:0], seed[:0], step[:0], backend=backend).token.shape == (0,)


def test_any_number_of_threads():
    logits, seed, step = rows(7, 5000)
    options = {"temperature": 1.0, "top_p": 0.95}
    runs, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            runs.append(sample_tokens(logits, seed, step, **options, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    for run in runs:
        assert torch.equal(run.token, runs[0].token) and torch.equal(run.logprob, runs[0].logprob)


def test_rows_without_a_number_get_some_token(backend):
    logits = torch.full((3, 900), float("nan"))
    logits[1] = float("-inf")
    logits[2, 5] = float("inf")
    for options in SETTINGS:
        token, _ = sample_tokens(
            logits, torch.arange(3), torch.arange(3), **options, backend=backend
        )
        assert token.min() >= 0 and token.max() < 900


def test_explain():
    logits, seed, step = rows(2, 9)
    choice = kernels.explain(sample_tokens, logits, seed, step)
    assert choice.backend == "cpu" and "heap" in choice.plan


@pytest.mark.parametrize(
    "bad, problem",
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": torch.ones(2)}, "top_k has dtype"),
        ({"temperature": torch.ones(3)}, "temperature has shape"),
        ({"forced": torch.zeros(2)}, "forced has dtype"),
        ({"forced": torch.tensor([-1, 9])}, "forced holds 9"),
        ({"temperature": torch.tensor([0.0, -1.0])}, "temperature holds -1"),
        ({"top_p": torch.tensor([0.0, 1.0])}, "top_p holds 0"),
        ({"top_k": torch.tensor([-4, 1])}, "top_k holds -4"),
    ],
    ids=str,
)
def test_errors_name_the_argument(bad, problem):
    logits, seed, step = rows(2, 9)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=problem):
        sample_tokens(logits, seed, step, **bad)


def test_errors_of_shapes():
    logits, seed, step = rows(2, 9)
    with pytest.raises(ValueError, match="logits has shape"):
        sample_tokens(logits[0], seed, step)
    with pytest.raises(ValueError, match="seed has shape"):
        sample_tokens(logits, seed[:1], step)
    with pytest.raises(TypeError, match="step has dtype"):
        sample_tokens(logits, seed, step.double())
    with pytest.raises(ValueError, match="must have a token"):
        sample_tokens(logits[:, :0], seed, step)
