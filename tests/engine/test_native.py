"""The engine's promises beyond plain generation: joining, leaving, sharing, sleeping, new weights, budgets."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from native_engine import NEVER, SPECIAL, VisionCalls, run

from umer1.engine import NativeEngine, Prompt, Sampling, prefill
from umer1.engine.prefixes import FeatureCache, PromptContent
from umer1.model.sequence import pack
from umer1_kernels import backends
from umer1_kernels.backends import Choice


def test_requests_join_and_leave_at_any_step(engine, model, make_prompts, naive):
    """One joins at each step while the others are at different places of their texts."""
    prompts = make_prompts(7)
    limits = [9, 3, 12, 5, 7, 2, 8]
    requests = []
    for prompt, limit in zip(prompts, limits):
        requests.append(engine.add(prompt, Sampling(limit)))
        engine.step()
    rollouts = run(engine, *requests)
    for prompt, limit, rollout in zip(prompts, limits, rollouts):
        tokens, vector, *_ = naive(model, prompt, NEVER, NEVER, limit)
        assert rollout.tokens == tokens
        torch.testing.assert_close(rollout.vector, vector, atol=1e-5, rtol=0)
    assert engine.idle


def test_different_settings_share_a_batch(engine, model, make_prompts):
    """Greedy, truncated and plain sampling side by side: each gets what it gets alone."""
    settings = [
        Sampling(6),
        Sampling(8, temperature=1.0, seed=1),
        Sampling(5, temperature=0.7, top_k=3, seed=2),
        Sampling(7, temperature=1.3, top_p=0.8, seed=3),
    ]
    prompts = make_prompts(4)
    together = run(engine, *[engine.add(p, s) for p, s in zip(prompts, settings)])
    for prompt, sampling, rollout in zip(prompts, settings, together):
        alone = NativeEngine(model, SPECIAL)
        assert run(alone, alone.add(prompt, sampling))[0].tokens == rollout.tokens


def test_cancelling_leaves_the_others_alone(engine, model, make_prompts, naive):
    prompts = make_prompts(6)
    requests = [engine.add(prompt, Sampling(10), samples=1) for prompt in prompts]
    for _ in range(3):
        engine.step()
    engine.cancel(requests[1])
    engine.cancel(requests[5])  # still waiting
    engine.step()
    engine.cancel(requests[3])
    rollouts = run(engine, *[requests[place] for place in (0, 2, 4)])
    for place, rollout in zip((0, 2, 4), rollouts):
        assert rollout.tokens == naive(model, prompts[place], NEVER, NEVER, 10)[0]
    assert all(not requests[place].results for place in (1, 3, 5))
    assert engine.idle


def test_who_gets_a_result_may_cancel_the_rest(engine, make_prompts):
    """The first of three samples is enough: the others, which end in the same step, are not delivered."""
    found = []

    def deliver(finished):
        found.append(finished)
        engine.cancel(request)

    request = engine.add(make_prompts(1)[0], Sampling(3), samples=3, deliver=deliver)
    while not engine.idle:
        engine.step()
        engine.stepper.scheduler.check()
    assert len(found) == 1 and request.state == "cancelled"


def test_tokens_are_told_as_they_are_written(engine, make_prompts):
    """Each sample's in order, all of them before its result, and none of a request without a listener."""
    prompts, sampling = make_prompts(3), Sampling(9, temperature=1.0)
    events = []

    def listen(name):
        def wrote(sample, token):
            assert type(token) is int
            events.append((name, sample, token))

        return wrote

    def deliver(finished):
        events.append(("done", finished.sample, finished.rollout.tokens))

    first = engine.add(prompts[0], sampling, samples=2, wrote=listen("told"), deliver=deliver)
    silent = engine.add(prompts[1], sampling)
    for _ in range(3):
        engine.step()
    assert [event[:2] for event in events[:2]] == [("told", 0), ("told", 1)]
    assert not any(name == "done" for name, *_ in events), "told before the end"
    late = engine.add(prompts[2], Sampling(4), wrote=listen("late"))
    run(engine, silent, late)
    while not first.over:
        engine.step()
    for sample in (0, 1):
        of_it = [
            (name, token) for name, place, token in events if place == sample and name != "late"
        ]
        *told, done = of_it
        assert done == ("done", [token for _, token in told]) and len(told) == 9
    assert [token for name, _, token in events if name == "late"] == late.results[0].rollout.tokens


def test_who_hears_a_token_may_cancel(engine, model, make_prompts, naive):
    """A stop word of its own: the request ends there, though it is the last token of its row; the other goes on."""
    prompts, heard = make_prompts(2), []

    def wrote(sample, token):
        heard.append(token)
        if len(heard) == 3:
            engine.cancel(request)

    request = engine.add(prompts[0], Sampling(2), samples=2, wrote=wrote)
    other = engine.add(prompts[1], Sampling(6))
    rollout = run(engine, other)[0]
    assert rollout.tokens == naive(model, prompts[1], NEVER, NEVER, 6)[0]
    assert len(heard) == 3 and request.state == "cancelled" and not request.results
    assert engine.idle


def test_closing_the_iterator_cancels_what_runs(engine, make_prompts):
    results = engine.submit(make_prompts(9), Sampling(6, temperature=1.0), samples=3)
    next(results)
    results.close()
    assert engine.idle
    engine.stepper.scheduler.check()


def test_two_submissions_can_be_read_in_turns(engine, model, make_prompts, naive):
    prompts = make_prompts(10)
    first, second = (engine.submit(iter(part), Sampling(5)) for part in (prompts[:5], prompts[5:]))
    seen = {}
    for one, other in zip(first, second):
        seen[one.prompt] = one.rollout
        seen[5 + other.prompt] = other.rollout
    for place, prompt in enumerate(prompts):
        assert seen[place].tokens == naive(model, prompt, NEVER, NEVER, 5)[0]


def test_every_distinct_prompt_is_read_once_and_every_distinct_picture_encoded_once(
    engine, model, make_prompts
):
    one, two = make_prompts(3)[1], make_prompts(3)[2]  # one picture and two
    same_pixels = dataclasses.replace(
        two.sequence, pixel_values=one.sequence.pixel_values.repeat(2, 1)
    )
    prompts = [one, one, two, Prompt(same_pixels, 9, 1), dataclasses.replace(one, number=5)]
    with VisionCalls(model) as calls:
        rows = list(engine.submit(prompts, Sampling(3, temperature=1.0), samples=4))
        assert calls.media == 3
        assert len(rows) == 20 and len(engine.stepper.scheduler.prefixes) == 3
        list(engine.submit(prompts, Sampling(2)))
        assert calls.media == 3  # prefixes and features are still there
        changed = dataclasses.replace(one.sequence, pixel_values=one.sequence.pixel_values + 1)
        other = list(engine.submit([Prompt(changed, 0, 1)], Sampling(2)))
        assert calls.media == 4  # another picture with as many tokens
    assert not torch.equal(other[0].disc, rows[0].disc)


@pytest.mark.parametrize("together", [True, False])
def test_media_are_encoded_in_passes_of_bounded_size(make_engine_model, monkeypatch, together):
    """Videos are cut between frames, small media share a pass (on CUDA), and every feature stays what it was."""
    model = make_engine_model()
    generator = torch.Generator().manual_seed(0)
    grids = [(1, 2, 4), (5, 4, 4), (1, 2, 2), (1, 6, 8), (2, 2, 2)]
    patches = [torch.randn(t * h * w, 1176, generator=generator) for t, h, w in grids]
    media = {
        bytes([number]): (pixels, torch.tensor(grid))
        for number, (pixels, grid) in enumerate(zip(patches, grids))
    }
    monkeypatch.setattr(prefill, "_TOWER_PATCHES", 40)
    batches = list(prefill._tower_batches(media, together))
    sizes = [sum(len(part) for _, part, _ in batch) for batch in batches]
    assert sum(sizes) == sum(map(len, patches))
    assert all(size <= 40 or len(batch) == 1 for size, batch in zip(sizes, batches))
    assert len(batches) == (5 if together else 7)
    content = PromptContent(None, None, 0, None, [(k, p, g) for k, (p, g) in media.items()])
    prefill.encode_media(model, [content], FeatureCache(1 << 20))
    wanted = model.vision(torch.cat(patches), torch.tensor(grids))
    torch.testing.assert_close(content.features, wanted, atol=1e-5, rtol=1e-5)


def test_features_are_bounded_and_the_oldest_go_first(model, make_prompts):
    pictures = [prompt for prompt in make_prompts(12) if prompt.number % 3 == 1]
    engine = NativeEngine(model, SPECIAL, slots=2, feature_memory=3 * 32 * 4)
    with VisionCalls(model) as calls:
        list(engine.submit(pictures, Sampling(1)))
        assert calls.media == 4 and len(engine.features) == 3
        engine.stepper.scheduler.prefixes.drop_unused()
        list(engine.submit(pictures[1:], Sampling(1)))
        assert calls.media == 4
        engine.stepper.scheduler.prefixes.drop_unused()
        list(engine.submit(pictures[:1], Sampling(1)))
        assert calls.media == 5


@pytest.mark.parametrize("prefill_tokens", [4, 1000])
def test_disc_vectors_without_generation(model, make_prompts, prefill_tokens):
    """Nothing behind the token is computed: it may as well be absent."""
    prompts = make_prompts(8)
    engine = NativeEngine(model, SPECIAL, slots=3, prefill_tokens=prefill_tokens)
    lengths = []
    handle = model.decoder.layers[0].register_forward_pre_hook(
        lambda m, a: lengths.append(len(a[0]))
    )
    found = {each.prompt: each for each in engine.submit(prompts, Sampling(), samples=0)}
    handle.remove()
    beyond = [p.sequence.media_mask[p.disc_position + 1 :].any() for p in prompts]
    kept = [len(p.sequence) if cut else p.disc_position + 1 for p, cut in zip(prompts, beyond)]
    assert sum(lengths) == sum(kept)
    for place, prompt in enumerate(prompts):
        assert found[place].rollout is None and found[place].sample == -1
        with torch.no_grad():
            wanted = F.normalize(model(pack([prompt.sequence]))[prompt.disc_position], dim=-1)
        torch.testing.assert_close(found[place].disc, wanted, atol=1e-5, rtol=0)
    assert (engine.stepper._decode is None) == (prefill_tokens == 1000)


def test_poisoned_memory_is_never_read(engine, model, make_prompts, naive):
    """Pages that hold whatever was there before: NaN in all places that no token was written to."""
    memory = engine.stepper.decode().memory
    memory.key.fill_(float("nan"))
    memory.value.fill_(float("nan"))
    prompts = make_prompts(6)
    for prompt, finished in zip(
        prompts, sorted(engine.submit(prompts, Sampling(7)), key=lambda f: f.prompt)
    ):
        tokens, vector, *_ = naive(model, prompt, NEVER, NEVER, 7)
        assert finished.rollout.tokens == tokens
        torch.testing.assert_close(finished.rollout.vector, vector, atol=1e-5, rtol=0)


def test_long_prompts_and_suffixes_cross_pages(model, make_prompts, naive):
    prompts = make_prompts(4, seed=3, longest=200)
    prompts = [p for p in prompts if len(p.sequence) > 64]
    engine = NativeEngine(model, SPECIAL, prefill_tokens=50)
    for finished in engine.submit(prompts, Sampling(70)):
        tokens, vector, *_ = naive(model, prompts[finished.prompt], NEVER, NEVER, 70)
        assert finished.rollout.tokens == tokens
        torch.testing.assert_close(finished.rollout.vector, vector, atol=1e-5, rtol=0)


def test_requests_wait_for_pages_and_all_are_served(model, make_prompts, naive):
    """Memory for one request at a time, however many slots there are."""
    prompts = make_prompts(5)
    engine = NativeEngine(model, SPECIAL, slots=8)
    engine.kv_memory = 3 * 2 * 2 * 2 * 64 * 8 * 4  # scratch, a prefix and a suffix
    assert engine.describe()["pages"] == 2
    served = list(engine.submit(prompts, Sampling(6, temperature=1.0), samples=3))
    assert len(served) == 15 and engine.idle
    assert max(len(each.rollout.tokens) for each in served) == 6


def test_what_never_fits_is_an_error_before_anything_runs(model, make_prompts):
    engine = NativeEngine(model, SPECIAL, kv_memory=4 * 2 * 2 * 2 * 64 * 8 * 4)
    prompts = make_prompts(3)
    with pytest.raises(
        ValueError, match="prompt 0: .* prompt tokens and 500 new ones need 9 pages"
    ):
        engine.submit(prompts, Sampling(500))
    assert engine.idle
    with pytest.raises(ValueError, match="kv_memory: .* hold no two pages"):
        NativeEngine(model, SPECIAL, kv_memory=10).add(prompts[0], Sampling(4))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(disc_position=99), "prompt 0: disc_position is 99, wants a place in its"),
        (dict(disc_position=None), "samples is 0 and disc_position None"),
    ],
)
def test_bad_prompts_name_themselves(engine, make_prompts, change, message):
    prompt = dataclasses.replace(make_prompts(1)[0], **change)
    with pytest.raises(ValueError, match=message):
        engine.add(prompt, Sampling(2), samples=0)
    assert engine.idle


def test_bad_arguments_name_themselves(model, engine, make_prompts):
    for name in ("slots", "prefill_tokens"):
        with pytest.raises(ValueError, match=f"{name}: got 0"):
            NativeEngine(model, SPECIAL, **{name: 0})
    with pytest.raises(ValueError, match="samples: got -1"):
        engine.submit([], Sampling(), samples=-1)
    with pytest.raises(ValueError, match="max_think_tokens: this engine was not told"):
        engine.add(make_prompts(1)[0], Sampling(max_think_tokens=3))
    prompt = make_prompts(2)[1]
    broken = dataclasses.replace(prompt.sequence, pixel_values=prompt.sequence.pixel_values[:2])
    with pytest.raises(ValueError, match="prompt 7: pixel_values has 2 patches, want 4"):
        engine.add(dataclasses.replace(prompt, sequence=broken), Sampling(), place=7)


def test_every_kernel_runs_on_the_backend_of_the_engine(model, make_prompts, monkeypatch):
    """Long prompts' later pieces too."""
    chosen = []

    def noted(*fields):
        chosen.append(Choice(*fields))
        return chosen[-1]

    monkeypatch.setattr(backends, "Choice", noted)
    engine = NativeEngine(model, SPECIAL, backend="reference", prefill_tokens=8)
    run(engine, *[engine.add(prompt, Sampling(3)) for prompt in make_prompts(3)])
    assert {choice.function for choice in chosen} == {
        "append_kv", "decode_attention", "sample_tokens", "gather_hidden"
    }  # fmt: skip
    assert {choice.backend for choice in chosen} == {"reference"}
