"""The generation loop against the plainest possible one: a full forward for every token."""

import random

import pytest
import torch
import torch.nn.functional as F

from umer1.engine import Prompt, Sampling, generate
from umer1.engine import generation as generation_module
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack

VOCAB, EOS, NEVER = 40, 39, 10_000


@pytest.fixture(scope="module")
def model():
    vision = VisionConfig(depth=1, embed_dim=16, hidden_size=32, num_heads=2)
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vision=vision,
        mrope_section=(1, 1, 2),
        tie_word_embeddings=True,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    return Qwen2VL(config).reset_parameters().eval()


def _prompts(count, seed=0):
    chance = random.Random(seed)
    result = []
    for number in range(count):
        length = chance.randint(3, 17)
        ids = torch.tensor([chance.randrange(VOCAB - 1) for _ in range(length)])
        mask, pixels, grid = (
            torch.zeros(length, dtype=torch.bool),
            None,
            torch.zeros(0, 3, dtype=torch.int64),
        )
        if number % 3 == 1:  # one picture of one visual token
            mask[1] = True
            pixels = torch.randn(4, 1176, generator=torch.Generator().manual_seed(number))
            grid = torch.tensor([[1, 2, 2]])
        result.append(Prompt(Sequence(ids, mask, pixels, grid), number, disc_position=length // 2))
    return result


@torch.no_grad()
def _naive(model, prompt, gen_id, eos_id, limit, stop="first"):
    """Greedy, one full forward per token; the vector from a forward over everything."""
    sequence, tokens, vector, finish = prompt.sequence, [], None, None
    while finish is None:
        hidden = model(pack([sequence]))
        if tokens and tokens[-1] == gen_id:
            vector = hidden[-1]
            if stop == "first":
                finish = "gen_emb"
                break
            if len(tokens) == limit:
                finish = "length"
                break
        token = int(model.logits(hidden[-1]).argmax())
        tokens.append(token)
        if token == eos_id:
            finish = "gen_emb" if vector is not None else "eos"
        elif len(tokens) == limit and token != gen_id:
            finish = "length"
        if finish:
            hit = vector is not None
            vector = vector if hit else hidden[-1]
            return tokens, F.normalize(vector, dim=-1), hit, finish
        sequence = sequence.extend([token])
    return tokens, F.normalize(vector, dim=-1), True, finish


def _common_tokens(model, prompts, limit):
    """Two tokens that greedy decoding really writes, for some prompts and not for all: they play
    `<gen_emb>` and the end of the turn."""
    written = [_naive(model, prompt, NEVER, NEVER, limit)[0] for prompt in prompts]
    counts = {token: sum(token in tokens for tokens in written) for token in range(VOCAB)}
    usable = [token for token in counts if 0 < counts[token] < len(prompts)]
    return sorted(usable, key=counts.get)[-2:]


@pytest.mark.parametrize("stop", ["first", "eos"])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_and_vectors_equal_the_naive_loop(model, slots, stop):
    prompts, limit = _prompts(9), 12
    gen_id, eos_id = _common_tokens(model, prompts, limit)
    results = generate(
        model, prompts, Sampling(limit, stop=stop), gen_id=gen_id, eos_id=eos_id, slots=slots
    )
    finishes = set()
    for prompt, result in zip(prompts, results):
        tokens, vector, hit, finish = _naive(model, prompt, gen_id, eos_id, limit, stop)
        rollout = result.rollouts[0]
        assert (rollout.tokens, rollout.hit, rollout.finish) == (tokens, hit, finish)
        torch.testing.assert_close(rollout.vector, vector, atol=1e-5, rtol=0)
        disc = model(pack([prompt.sequence]))[prompt.disc_position]
        torch.testing.assert_close(result.disc, F.normalize(disc, dim=-1), atol=1e-5, rtol=0)
        finishes.add(finish)
    assert len(finishes) > 1  # the cases differ, or this test shows nothing


def test_gen_token_of_the_prompt_is_never_taken_for_the_answers(model):
    """Hazard H1: the instruction itself contains `<gen_emb>`."""
    prompt = _prompts(1)[0]
    tokens, vector, hit, finish = _naive(model, prompt, NEVER, NEVER, 5)
    absent = next(token for token in range(VOCAB) if token not in tokens)
    prompt.sequence.input_ids[1] = absent
    tokens, vector, hit, finish = _naive(model, prompt, absent, NEVER, 5)
    rollout = generate(model, [prompt], Sampling(5), gen_id=absent, eos_id=NEVER)[0].rollouts[0]
    if absent not in tokens:
        assert not rollout.hit and rollout.finish == "length"
    torch.testing.assert_close(rollout.vector, vector, atol=1e-5, rtol=0)


def test_gen_token_as_the_last_allowed_token_still_gets_its_step(model):
    """Hazard H24: the release runs past the end or silently takes the token before."""
    prompt = _prompts(1)[0]
    tokens, *_ = _naive(model, prompt, NEVER, NEVER, 6)
    limit = next(
        place
        for place, token in enumerate(tokens, 1)
        if tokens.index(token) == place - 1 and place > 1
    )
    gen_id = tokens[limit - 1]
    rollout = generate(model, [prompt], Sampling(limit), gen_id=gen_id, eos_id=NEVER)[0].rollouts[0]
    assert (rollout.tokens, rollout.hit, rollout.finish) == (tokens[:limit], True, "gen_emb")
    read = F.normalize(model(pack([prompt.sequence.extend(tokens[:limit])]))[-1], dim=-1)
    torch.testing.assert_close(rollout.vector, read, atol=1e-5, rtol=0)


def test_a_miss_is_its_own_last_input_whatever_its_batch_mates(model):
    """Hazard H25: the release takes the whole batch's last step, a state of padding for a row that ended early."""
    prompts = _prompts(6, seed=4)
    together = generate(model, prompts, Sampling(9), gen_id=NEVER, eos_id=NEVER, slots=6)
    alone = [
        generate(model, [prompt], Sampling(9), gen_id=NEVER, eos_id=NEVER)[0] for prompt in prompts
    ]
    for one, other in zip(together, alone):
        assert not one.rollouts[0].hit
        torch.testing.assert_close(
            one.rollouts[0].vector, other.rollouts[0].vector, atol=1e-5, rtol=0
        )


def test_samples_of_a_prompt_fork_differ_and_do_not_depend_on_the_batch(model):
    prompts, sampling = _prompts(5, seed=2), Sampling(8, temperature=1.0, seed=3)
    arguments = dict(gen_id=NEVER, eos_id=EOS, samples=4)
    together = generate(model, prompts, sampling, slots=7, **arguments)
    order = [3, 0, 4, 1, 2]
    shuffled = generate(model, [prompts[index] for index in order], sampling, slots=20, **arguments)
    for place, index in enumerate(order):
        ours = [rollout.tokens for rollout in together[index].rollouts]
        assert ours == [rollout.tokens for rollout in shuffled[place].rollouts]
        assert len({tuple(tokens) for tokens in ours}) > 1


def test_log_probabilities_are_the_trainers(model):
    prompt = _prompts(2)[1]
    rollout = generate(
        model, [prompt], Sampling(6, temperature=0.7, top_k=5), gen_id=NEVER, eos_id=NEVER
    )[0].rollouts[0]
    start = len(prompt.sequence.input_ids)
    hidden = model(pack([prompt.sequence.extend(rollout.tokens)]))
    logprobs = (model.logits(hidden[start - 1 : -1]) / 0.7).log_softmax(-1)
    wanted = logprobs.gather(-1, torch.tensor(rollout.tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(rollout.logprobs), wanted, atol=1e-4, rtol=1e-4)


def test_prefill_is_cut_into_pieces_that_fit(model, monkeypatch):
    prompts = _prompts(8, seed=5)
    whole = generate(model, prompts, Sampling(4), gen_id=NEVER, eos_id=NEVER)
    monkeypatch.setattr(generation_module, "PREFILL_TOKENS", 20)
    pieces = generate(model, prompts, Sampling(4), gen_id=NEVER, eos_id=NEVER)
    assert [r.rollouts[0].tokens for r in whole] == [r.rollouts[0].tokens for r in pieces]


def test_progress_counts_every_row_and_token(model):
    seen = []
    results = generate(
        model,
        _prompts(5),
        Sampling(4, temperature=1.0),
        gen_id=NEVER,
        eos_id=EOS,
        samples=2,
        slots=4,
        progress=lambda rows, tokens: seen.append((rows, tokens)),
    )
    assert sum(rows for rows, _ in seen) == 10
    assert sum(tokens for _, tokens in seen) == sum(
        len(r.tokens) for result in results for r in result.rollouts
    )


def test_nothing_to_do_and_bad_samples(model):
    assert generate(model, [], Sampling(4), gen_id=1, eos_id=2) == []
    with pytest.raises(ValueError, match="samples: got 0"):
        generate(model, _prompts(1), Sampling(4), gen_id=1, eos_id=2, samples=0)
