"""The engine over transformers' own model against the native one: the same rollouts."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from umer1.embedder import BUNDLED, Embedder
from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.engine.hf import HuggingFaceEngine
from umer1.model.checkpoint import load_model
from umer1.model.key_names import checkpoint_tensors
from umer1.processor import Processor

TINY = BUNDLED["tiny"]


@pytest.fixture(scope="module")
def processor():
    return Processor.load(TINY)


@pytest.fixture(scope="module")
def special(processor):
    think = tuple(processor.text.encode("</think>"))
    return SpecialTokens(processor.gen_id, processor.eos_id, think)


@pytest.fixture(scope="module")
def model():
    return load_model(TINY, dtype=torch.float32)


@pytest.fixture
def native(model, special):
    return NativeEngine(model, special, slots=8)


@pytest.fixture(scope="module")
def shared(special):
    return HuggingFaceEngine.from_checkpoint(TINY, special, rows=3)


@pytest.fixture
def engine(shared):
    shared.wake()
    return shared


@pytest.fixture(scope="module")
def prompts(processor):
    picture = Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3))
    frames = [picture.rotate(angle) for angle in range(0, 80, 10)]
    items = [
        "seven",
        {"image": picture, "text": "What is the last digit of the sum?"},
        {"images": [picture.rotate(90, expand=True), picture], "text": "which?"},
        {"video": frames, "text": "what happens?"},
        [{"role": "user", "content": [
            {"type": "video", "video": frames[:4]}, {"type": "image", "image": picture},
            {"type": "text", "text": "both"},
        ]}],
        {"text": "x <gen_emb> y"},
    ]  # fmt: skip
    sequences = [processor.encode(item, mode="gen") for item in items]
    return [
        Prompt(sequence, number, processor.disc_position(sequence))
        for number, sequence in enumerate(sequences)
    ]


def _by_place(finished):
    return {(each.prompt, each.sample): each for each in finished}


def _same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        torch.testing.assert_close(one.disc, other.disc, atol=1e-5, rtol=0)
        if one.rollout is None:
            assert other.rollout is None
            continue
        for name in ("tokens", "hit", "finish"):
            assert getattr(one.rollout, name) == getattr(other.rollout, name), (key, name)
        torch.testing.assert_close(one.rollout.vector, other.rollout.vector, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            torch.tensor(one.rollout.logprobs), torch.tensor(other.rollout.logprobs),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(40),
        Sampling(40, stop="eos"),
        Sampling(2),
        Sampling(40, max_think_tokens=3),
        Sampling(30, temperature=1.0, seed=5),
        Sampling(30, temperature=0.8, top_p=0.9, top_k=20, seed=6, stop="eos"),
    ],
    ids=["greedy", "to the end", "cut", "short thinking", "sampled", "truncated"],
)
def test_rollouts_equal_the_native_ones(engine, native, prompts, sampling):
    """Text, an image, images, a video, both, a prompt with the token; in batches of three."""
    samples = 1 if sampling.temperature == 0 else 2
    theirs = _by_place(engine.submit(prompts, sampling, samples=samples))
    ours = _by_place(native.submit(prompts, sampling, samples=samples))
    assert len(ours) == len(prompts) * samples
    _same(ours, theirs)


def test_without_samples_only_the_disc_vectors_come(engine, native, prompts):
    theirs = _by_place(engine.submit(iter(prompts), Sampling(8), samples=0))
    assert {key[1] for key in theirs} == {-1}
    _same(_by_place(native.submit(prompts, Sampling(8), samples=0)), theirs)


def test_a_result_does_not_depend_on_its_batch(engine, prompts):
    sampling = Sampling(20, temperature=1.0, seed=2)
    together = _by_place(engine.submit(prompts, sampling))
    for place, prompt in enumerate(prompts):
        (alone,) = engine.submit([prompt], sampling)
        _same(
            {(place, 0): dataclasses.replace(alone, prompt=place)}, {(place, 0): together[place, 0]}
        )


def test_a_gen_token_in_the_last_place_is_read(engine, native, prompts, special):
    """The step after the last allowed token runs."""
    (whole,) = native.submit(prompts[:1], Sampling(60))
    written = whole.rollout.tokens
    assert written[-1] == special.gen_id, "the bundled model has stopped writing <gen_emb>"
    (cut,) = engine.submit(prompts[:1], Sampling(len(written)))
    assert cut.rollout.hit and cut.rollout.finish == "gen_emb"
    torch.testing.assert_close(cut.rollout.vector, whole.rollout.vector, atol=1e-5, rtol=0)


def test_settings_stored_with_a_checkpoint_are_not_used(engine, native, prompts, special):
    """Hazard H21: a stored top_k of 1, or a repetition penalty, would change every sample."""
    from transformers import GenerationConfig

    stored = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=5.0, max_length=3)
    engine.model.generation_config = stored
    again = HuggingFaceEngine(engine.model, special, rows=6)
    sampling = Sampling(15, temperature=1.0, seed=9)
    _same(
        _by_place(native.submit(prompts, sampling, samples=2)),
        _by_place(again.submit(prompts, sampling, samples=2)),
    )


def test_new_weights_come_by_their_checkpoint_names(special, prompts, model):
    engine = HuggingFaceEngine.from_checkpoint(TINY, special)
    changed = load_model(TINY, dtype=torch.float32)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.02)
    named = [(entry.key, entry.read()) for entry in checkpoint_tensors(changed)]
    engine.load(named, version=4)
    native = NativeEngine(changed, special)
    native.load((), version=4)
    theirs = _by_place(engine.submit(prompts, Sampling(12)))
    _same(_by_place(native.submit(prompts, Sampling(12))), theirs)
    assert {each.rollout.version for each in theirs.values()} == {4}
    with pytest.raises(ValueError, match="no.weight \\(2,\\): the model has no such weight"):
        engine.load([("no.weight", torch.zeros(2))], version=5)
    with pytest.raises(ValueError, match="the model has shape"):
        engine.load([("model.norm.weight", torch.zeros(2))], version=5)


def test_it_sleeps_and_wakes_between_submissions(engine, prompts):
    running = engine.submit(prompts, Sampling(2))
    next(running)
    with pytest.raises(RuntimeError, match="sleep: 1 submissions have not finished"):
        engine.sleep()
    with pytest.raises(RuntimeError, match="load: 1 submissions"):
        engine.load([], version=1)
    running.close()
    engine.sleep()
    with pytest.raises(RuntimeError, match="wake\\(\\) it first"):
        engine.submit(prompts, Sampling(2))
    engine.wake()
    assert len(list(engine.submit(prompts[:1], Sampling(2)))) == 1


def test_bad_arguments_name_themselves(engine, special, prompts):
    with pytest.raises(ValueError, match="samples: got -1"):
        engine.submit(prompts, Sampling(2), samples=-1)
    with pytest.raises(ValueError, match="rows: got 0"):
        HuggingFaceEngine(engine.model, special, rows=0)


@pytest.mark.parametrize("mode", ["both", "disc"])
def test_an_embedder_runs_on_it(mode):
    items = ["seven", {"image": Image.new("RGB", (56, 56), (9, 99, 200)), "text": "what?"}]
    ours, theirs = (
        Embedder.load("tiny", device="cpu", engine=engine).encode(
            items, mode, max_new_tokens=30, progress=False
        )
        for engine in ("native", "hf")
    )
    assert ours.reasoning == theirs.reasoning and ours.finish == theirs.finish
    np.testing.assert_allclose(ours.disc, theirs.disc, atol=1e-5)
    if mode == "both":
        np.testing.assert_allclose(ours.gen, theirs.gen, atol=1e-5)


def test_an_unknown_engine_is_named():
    for name in ("vllm", "vllm:", "native:http://a", "vllm:localhost:8000", "sglang:http://a,b"):
        with pytest.raises(ValueError, match="engine: got .*, wants 'native', 'hf', 'vllm:URL' or"):
            Embedder.load("tiny", engine=name)
