"""New weights, sleep and wake, other sizes: what an engine keeps and what it forgets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from native_engine import NEVER, SPECIAL, VisionCalls

from umer1.engine import NativeEngine, Sampling
from umer1.model.key_names import checkpoint_tensors
from umer1.model.packed_weights import obstacle, pack_weights
from umer1.model.sequence import pack


def test_new_weights_are_used_and_nothing_old_is(make_engine_model, make_prompts, naive):
    model, other = make_engine_model(0), make_engine_model(1)
    engine = NativeEngine(model, SPECIAL)
    prompts = make_prompts(5)

    def check(version):
        for finished in engine.submit(prompts, Sampling(5)):
            tokens, vector, *_ = naive(model, prompts[finished.prompt], NEVER, NEVER, 5)
            assert finished.rollout.tokens == tokens and finished.rollout.version == version
            torch.testing.assert_close(finished.rollout.vector, vector, atol=1e-5, rtol=0)
            disc = model(pack([prompts[finished.prompt].sequence]))
            disc = F.normalize(disc[prompts[finished.prompt].disc_position], dim=-1)
            torch.testing.assert_close(finished.disc, disc, atol=1e-5, rtol=0)

    check(0)
    engine.load(((entry.key, entry.read()) for entry in checkpoint_tensors(other)), version=3)
    for ours, wanted in zip(model.parameters(), other.parameters()):
        assert torch.equal(ours, wanted)
    check(3)
    with torch.no_grad():  # an optimizer's step: no load is needed to see it
        for parameter in model.parameters():
            parameter.mul_(1.1)
    check(3)
    for parameter in model.parameters():  # behind autograd's back: a load tells
        parameter.data.mul_(0.9)
    engine.load([], version=4)
    check(4)
    with pytest.raises(ValueError, match="model.norm.weight: got shape .*, wants"):
        engine.load([("model.norm.weight", torch.zeros(3))], version=5)
    with pytest.raises(ValueError, match="the model has no such weight"):
        engine.load([("nonsense", torch.zeros(3))], version=5)


def test_new_weights_of_a_packed_model(make_engine_model, make_prompts, naive):
    model, other = make_engine_model(0), make_engine_model(1)
    prompts = make_prompts(4)
    if obstacle(model):
        pytest.skip(obstacle(model))
    engine = NativeEngine(model, SPECIAL, packed=pack_weights(model))
    assert "packed" in engine.describe()["weights"]
    list(engine.submit(prompts, Sampling(3)))
    engine.load(((entry.key, entry.read()) for entry in checkpoint_tensors(other)), version=1)
    for finished in engine.submit(prompts, Sampling(5)):
        tokens, vector, *_ = naive(other, prompts[finished.prompt], NEVER, NEVER, 5)
        assert finished.rollout.tokens == tokens
        torch.testing.assert_close(finished.rollout.vector, vector, atol=1e-5, rtol=0)


def test_features_survive_new_weights_only_of_a_frozen_tower(make_engine_model, make_prompts):
    model = make_engine_model(0)
    model.vision.requires_grad_(False)
    engine = NativeEngine(model, SPECIAL)
    picture = make_prompts(2)[1:]
    with VisionCalls(model) as calls:
        list(engine.submit(picture, Sampling(2)))
        engine.load([("model.norm.weight", torch.ones(32))], version=1)
        list(engine.submit(picture, Sampling(2)))
        assert calls.media == 1
        name, weight = next(
            (e.key, e.read()) for e in checkpoint_tensors(model) if "visual" in e.key
        )
        engine.load([(name, weight)], version=2)
        list(engine.submit(picture, Sampling(2)))
        assert calls.media == 2
        model.vision.requires_grad_(True)
        engine.load([], version=3)
        list(engine.submit(picture, Sampling(2)))
        assert calls.media == 3


def test_sleep_gives_memory_back_and_wake_works_again(engine, make_prompts):
    prompts = make_prompts(3)
    before = {each.prompt: each.rollout.tokens for each in engine.submit(prompts, Sampling(4))}
    engine.sleep()
    assert engine._stepper is None and not len(engine.features)
    with pytest.raises(RuntimeError, match="the engine sleeps"):
        engine.add(prompts[0], Sampling(4))
    engine.wake()
    assert before == {
        each.prompt: each.rollout.tokens for each in engine.submit(prompts, Sampling(4))
    }


@pytest.mark.parametrize("what", ["sleep", "load", "resize"])
def test_nothing_is_pulled_from_under_running_requests(engine, make_prompts, what):
    engine.add(make_prompts(1)[0], Sampling(9))
    engine.step()
    calls = {
        "sleep": engine.sleep,
        "load": lambda: engine.load([], 1),
        "resize": lambda: engine.resize(2),
    }
    with pytest.raises(RuntimeError, match=f"{what}: 0 requests wait and 1 rows run"):
        calls[what]()


def test_resize(engine, make_prompts):
    list(engine.submit(make_prompts(2), Sampling(2)))
    engine.resize(2)
    assert engine.describe()["slots"] == 2
    assert len(list(engine.submit(make_prompts(5), Sampling(2)))) == 5
    with pytest.raises(ValueError, match="slots: got 0"):
        engine.resize(0)


def test_the_engine_says_what_it_has(engine, make_prompts, caplog):
    with caplog.at_level("INFO", "umer1"):
        list(engine.submit(make_prompts(3), Sampling(2)))
    assert "pages of 64 tokens" in caplog.text and "GiB of keys and values" in caplog.text
    told = engine.describe()
    assert told["slots"] == 4 and told["prefixes"] == 3 and told["features"] == 3
    assert told["pages"] - told["pages_free"] == 3 and told["running"] == told["waiting"] == 0
