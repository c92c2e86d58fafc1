"""The generation loop against the plainest possible one: a full forward for every token."""

import pytest
import torch
import torch.nn.functional as F

from umer1.engine import NativeEngine, Sampling, SpecialTokens, generate
from umer1.model.sequence import pack

VOCAB, EOS, NEVER = 40, 39, 10_000


@pytest.mark.parametrize("stop", ["first", "eos"])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_and_vectors_equal_the_naive_loop(
    model, slots, stop, make_prompts, naive, common_tokens
):
    prompts, limit = make_prompts(9), 12
    gen_id, eos_id = common_tokens(model, prompts, limit)
    results = generate(
        model, prompts, Sampling(limit, stop=stop), gen_id=gen_id, eos_id=eos_id, slots=slots
    )
    finishes = set()
    for prompt, result in zip(prompts, results):
        tokens, vector, hit, finish = naive(model, prompt, gen_id, eos_id, limit, stop)
        rollout = result.rollouts[0]
        assert (rollout.tokens, rollout.hit, rollout.finish) == (tokens, hit, finish)
        torch.testing.assert_close(rollout.vector, vector, atol=1e-5, rtol=0)
        disc = model(pack([prompt.sequence]))[prompt.disc_position]
        torch.testing.assert_close(result.disc, F.normalize(disc, dim=-1), atol=1e-5, rtol=0)
        finishes.add(finish)
    assert len(finishes) > 1  # the cases differ, or this test shows nothing


def test_gen_token_of_the_prompt_is_never_taken_for_the_answers(model, make_prompts, naive):
    """Hazard H1: the instruction itself contains `<gen_emb>`."""
    prompt = make_prompts(1)[0]
    tokens, vector, hit, finish = naive(model, prompt, NEVER, NEVER, 5)
    absent = next(token for token in range(VOCAB) if token not in tokens)
    prompt.sequence.input_ids[1] = absent
    tokens, vector, hit, finish = naive(model, prompt, absent, NEVER, 5)
    rollout = generate(model, [prompt], Sampling(5), gen_id=absent, eos_id=NEVER)[0].rollouts[0]
    if absent not in tokens:
        assert not rollout.hit and rollout.finish == "length"
    torch.testing.assert_close(rollout.vector, vector, atol=1e-5, rtol=0)


def test_gen_token_as_the_last_allowed_token_still_gets_its_step(model, make_prompts, naive):
    """Hazard H24: the release runs past the end or silently takes the token before."""
    prompt = make_prompts(1)[0]
    tokens, *_ = naive(model, prompt, NEVER, NEVER, 6)
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


def test_a_miss_is_its_own_last_input_whatever_its_batch_mates(model, make_prompts):
    """Hazard H25: the release takes the whole batch's last step, a state of padding for a row that ended early."""
    prompts = make_prompts(6, seed=4)
    together = generate(model, prompts, Sampling(9), gen_id=NEVER, eos_id=NEVER, slots=6)
    alone = [
        generate(model, [prompt], Sampling(9), gen_id=NEVER, eos_id=NEVER)[0] for prompt in prompts
    ]
    for one, other in zip(together, alone):
        assert not one.rollouts[0].hit
        torch.testing.assert_close(
            one.rollouts[0].vector, other.rollouts[0].vector, atol=1e-5, rtol=0
        )


def test_samples_of_a_prompt_fork_differ_and_do_not_depend_on_the_batch(model, make_prompts):
    prompts, sampling = make_prompts(5, seed=2), Sampling(8, temperature=1.0, seed=3)
    arguments = dict(gen_id=NEVER, eos_id=EOS, samples=4)
    together = generate(model, prompts, sampling, slots=7, **arguments)
    order = [3, 0, 4, 1, 2]
    shuffled = generate(model, [prompts[index] for index in order], sampling, slots=20, **arguments)
    for place, index in enumerate(order):
        ours = [rollout.tokens for rollout in together[index].rollouts]
        assert ours == [rollout.tokens for rollout in shuffled[place].rollouts]
        assert len({tuple(tokens) for tokens in ours}) > 1


def test_log_probabilities_are_the_trainers(model, make_prompts):
    prompt = make_prompts(2)[1]
    rollout = generate(
        model, [prompt], Sampling(6, temperature=0.7, top_k=5), gen_id=NEVER, eos_id=NEVER
    )[0].rollouts[0]
    start = len(prompt.sequence.input_ids)
    hidden = model(pack([prompt.sequence.extend(rollout.tokens)]))
    logprobs = (model.logits(hidden[start - 1 : -1]) / 0.7).log_softmax(-1)
    wanted = logprobs.gather(-1, torch.tensor(rollout.tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(rollout.logprobs), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefill_tokens", [3, 7, 20])
def test_prefill_is_cut_into_pieces_that_fit(model, prefill_tokens, make_prompts):
    prompts = make_prompts(8, seed=5)
    whole = generate(model, prompts, Sampling(4), gen_id=NEVER, eos_id=NEVER)
    engine = NativeEngine(model, SpecialTokens(NEVER, NEVER), prefill_tokens=prefill_tokens)
    pieces = generate(engine, prompts, Sampling(4))
    for one, other in zip(whole, pieces):
        assert one.rollouts[0].tokens == other.rollouts[0].tokens
        torch.testing.assert_close(
            one.rollouts[0].vector, other.rollouts[0].vector, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(one.disc, other.disc, atol=1e-5, rtol=0)


def test_progress_counts_every_row_and_token(model, make_prompts):
    seen = []
    results = generate(
        model,
        make_prompts(5),
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


def test_nothing_to_do_and_bad_samples(model, make_prompts):
    assert generate(model, [], Sampling(4), gen_id=1, eos_id=2) == []
    with pytest.raises(ValueError, match="samples: got 0"):
        generate(model, make_prompts(1), Sampling(4), gen_id=1, eos_id=2, samples=0)
