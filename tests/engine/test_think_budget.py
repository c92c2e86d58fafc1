"""max_think_tokens: `</think>` is written for the model once the budget is spent, and only then."""

from __future__ import annotations

import pytest
import torch

from umer1.engine import NativeEngine, Sampling, SpecialTokens
from umer1.model.sequence import pack

NEVER = 10_000


@pytest.fixture
def free(model, make_prompts):
    """What the model writes by itself: prompts and their greedy tokens."""
    prompts = make_prompts(6, seed=8)
    engine = NativeEngine(model, SpecialTokens(NEVER, NEVER))
    tokens = {f.prompt: f.rollout.tokens for f in engine.submit(prompts, Sampling(14))}
    return prompts, [tokens[place] for place in range(6)]


def absent(written, count):
    return tuple(token for token in range(39) if not any(token in each for each in written))[:count]


@pytest.mark.parametrize("budget", [0, 1, 5, 13, 14, 50])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_it_is_forced_after_the_budget(model, free, budget, pieces):
    prompts, written = free
    ends = absent(written, pieces)
    assert len(ends) == pieces
    engine = NativeEngine(model, SpecialTokens(NEVER, NEVER, ends), slots=4)
    sampling = Sampling(14, max_think_tokens=budget)
    for finished in engine.submit(prompts, sampling):
        tokens = finished.rollout.tokens
        assert tokens[:budget] == written[finished.prompt][:budget]
        assert tuple(tokens[budget : budget + pieces]) == ends[: max(0, 14 - budget)]
        assert len(tokens) == 14
        # forced once: what comes after is the model's own, greedy on what stands before
        if budget == 1:
            sequence = prompts[finished.prompt].sequence.extend(tokens[:-1])
            with torch.no_grad():
                logits = model.logits(model(pack([sequence])))[
                    len(prompts[finished.prompt].sequence) - 1 :
                ]
            own = logits.argmax(-1).tolist()
            assert tokens[1 + pieces :] == own[1 + pieces :]
            logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
            torch.testing.assert_close(
                torch.tensor(finished.rollout.logprobs), logprobs, atol=1e-4, rtol=1e-4
            )


def test_a_row_that_has_ended_its_thinking_is_left_alone(model, free):
    """Whole, or all but the last token of the tag: that may have merged with what follows."""
    prompts, written = free
    for place, (prompt, tokens) in enumerate(zip(prompts, written)):
        for start in (0, 3, 6):
            a, b, c = tokens[start : start + 3]
            other = absent(written, 1)[0]
            for ends in ((a, b, c), (a, b, other)):
                if len({a, b, c}) < 3 or tokens.index(a) != start:
                    continue
                engine = NativeEngine(model, SpecialTokens(NEVER, NEVER, ends))
                (finished,) = engine.submit([prompt], Sampling(14, max_think_tokens=start + 3))
                assert finished.rollout.tokens == tokens, (place, start, ends)


def test_a_tag_that_has_begun_is_completed(model, free):
    """The budget ends in the middle of the tag: the rest of it is written, not all of it again."""
    prompts, written = free
    first = written[0][2]
    if first in written[0][:2]:
        pytest.skip("the token comes earlier too")
    rest = absent(written, 2)
    engine = NativeEngine(model, SpecialTokens(NEVER, NEVER, (first, *rest)))
    (finished,) = engine.submit(prompts[:1], Sampling(14, max_think_tokens=3))
    assert finished.rollout.tokens[:5] == [*written[0][:3], *rest]


def test_only_rows_with_a_budget_are_forced(model, free):
    prompts, written = free
    ends = absent(written, 2)
    engine = NativeEngine(model, SpecialTokens(NEVER, NEVER, ends), slots=6)
    budgets = [None, 2, None, 4, 0, None]
    requests = [engine.add(p, Sampling(14, max_think_tokens=b)) for p, b in zip(prompts, budgets)]
    while not engine.idle:
        engine.step()
    for request, budget, own in zip(requests, budgets, written):
        tokens = request.results[0].rollout.tokens
        assert tokens == own if budget is None else tuple(tokens[budget : budget + 2]) == ends
