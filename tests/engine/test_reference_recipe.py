"""The native engine against the released recipe: transformers' generate() with all hidden states kept, one prompt at a
time, with its traps avoided (only generated tokens count, the step that reads the last token runs, a miss is the
row's own last input)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from umer1.embedder import BUNDLED
from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.engine.hf_inputs import model_inputs
from umer1.model.checkpoint import load_model
from umer1.model.packed_layouts import fast_bfloat16
from umer1.model.packed_weights import obstacle, pack_weights
from umer1.processor import Processor

TINY = BUNDLED["tiny"]
LIMIT = 40


@pytest.fixture(scope="module")
def processor():
    return Processor.load(TINY)


@pytest.fixture(scope="module")
def prompts(processor):
    picture = Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3))
    frames = [picture.rotate(angle) for angle in range(0, 80, 10)]
    turns = [{"type": "image", "image": picture}, {"type": "video", "video": frames[:4]},
             {"type": "text", "text": "both"}]  # fmt: skip
    items = {
        "text": "seven",
        "image": {"image": picture, "text": "What is the last digit of the sum?"},
        "same image": {"image": picture, "text": "how many?"},
        "images": {"images": [picture.rotate(90, expand=True), picture], "text": "which?"},
        "video": {"video": frames, "text": "what happens?"},
        "image and video": [{"role": "user", "content": turns}],
        "tokens in the prompt": {"text": "x <gen_emb> y <disc_emb> z"},
    }
    sequences = [processor.encode(item, mode="gen") for item in items.values()]
    return [Prompt(each, n, processor.disc_position(each)) for n, each in enumerate(sequences)]


@pytest.fixture(scope="module")
def recipe(processor, prompts):
    """For a stop rule and a limit: (tokens, vector, hit) of every prompt, and their disc vectors."""
    from transformers import Qwen2VLForConditionalGeneration

    reference = Qwen2VLForConditionalGeneration.from_pretrained(
        TINY, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    made = {}

    @torch.no_grad()
    def one(sequence, limit):
        inputs = model_inputs(reference, [sequence], pad_id=processor.pad_id)
        # one more than allowed: the step that reads the last allowed token
        return reference.generate(
            **inputs, max_new_tokens=limit + 1, do_sample=False, return_dict_in_generate=True,
            output_hidden_states=True, eos_token_id=processor.eos_id, pad_token_id=processor.pad_id,
        )  # fmt: skip

    def run(stop, limit):
        if (stop, limit) in made:
            return made[stop, limit]
        results = []
        for prompt in prompts:
            out = one(prompt.sequence, limit)
            tokens = out.sequences[0, len(prompt.sequence) :].tolist()[:limit]
            places = [place for place, token in enumerate(tokens) if token == processor.gen_id]
            if places and stop == "first":
                tokens = tokens[: places[0] + 1]
            # the state of the step whose input is the token: one step after the one that wrote it
            step = places[0 if stop == "first" else -1] + 1 if places else len(tokens) - 1
            state = out.hidden_states[step][-1][0, -1]
            disc = out.hidden_states[0][-1][0, prompt.disc_position]
            results.append(
                (tokens, F.normalize(state, dim=-1), bool(places), F.normalize(disc, dim=-1))
            )
        made[stop, limit] = results
        return results

    return run


@pytest.fixture(scope="module", params=["plain", "packed"])
def model(request):
    model = load_model(TINY, dtype=torch.float32)
    if request.param == "packed":
        if obstacle(model):
            pytest.skip(obstacle(model))
        pack_weights(model)
    return model


@pytest.fixture
def engine(model, processor):
    return lambda **settings: NativeEngine(model, SpecialTokens.of(processor), **settings)


def check(finished, wanted, place):
    tokens, vector, hit, disc = wanted[place]
    assert (finished.rollout.tokens, finished.rollout.hit) == (tokens, hit)
    torch.testing.assert_close(finished.rollout.vector, vector, atol=1e-5, rtol=0)
    torch.testing.assert_close(finished.disc, disc, atol=1e-5, rtol=0)


@pytest.mark.parametrize("slots", [1, 2, 4, 16])
@pytest.mark.parametrize("stop", ["first", "eos"])
def test_in_every_batch_size(engine, prompts, recipe, slots, stop):
    wanted = recipe(stop, LIMIT)
    assert all(hit for _, _, hit, _ in wanted), "the bundled model has stopped writing <gen_emb>"
    for finished in engine(slots=slots).submit(prompts, Sampling(LIMIT, stop=stop)):
        check(finished, wanted, finished.prompt)


def test_shuffled_and_twice(engine, prompts, recipe):
    order = [3, 0, 6, 5, 1, 4, 2, 3, 5]
    for finished in engine(slots=3).submit([prompts[place] for place in order], Sampling(LIMIT)):
        check(finished, recipe("first", LIMIT), order[finished.prompt])


def test_forks_of_one_prompt(engine, prompts, recipe):
    """Greedy samples are all alike: each goes its own way from the shared prefix to the same end."""
    finished = list(engine(slots=5).submit(prompts, Sampling(LIMIT), samples=4))
    assert len(finished) == 4 * len(prompts)
    for each in finished:
        check(each, recipe("first", LIMIT), each.prompt)


def test_joining_mid_flight(engine, prompts, recipe):
    running, requests = engine(slots=4), []
    for prompt in prompts:
        requests.append(running.add(prompt, Sampling(LIMIT)))
        for _ in range(3):
            running.step()
    while not running.idle:
        running.step()
    for place, request in enumerate(requests):
        check(request.results[0], recipe("first", LIMIT), place)


@pytest.mark.parametrize("prefill_tokens", [5, 16, 33])
def test_prompts_read_in_pieces(engine, prompts, recipe, prefill_tokens):
    running = engine(prefill_tokens=prefill_tokens)
    for finished in running.submit(prompts, Sampling(LIMIT)):
        check(finished, recipe("first", LIMIT), finished.prompt)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_cut_short(engine, prompts, recipe, limit):
    """No <gen_emb> yet: the state of the row's own last input, whoever else is in the batch."""
    wanted = recipe("first", limit)
    for finished in engine(slots=4).submit(prompts, Sampling(limit)):
        check(finished, wanted, finished.prompt)
        assert finished.rollout.finish == "length" and not finished.rollout.hit


def test_the_token_in_the_last_allowed_place(engine, prompts, recipe):
    for place, (tokens, *_) in enumerate(recipe("first", LIMIT)):
        limit = len(tokens)
        for stop in ("first", "eos"):
            (finished,) = engine().submit([prompts[place]], Sampling(limit, stop=stop))
            assert finished.rollout.hit and len(finished.rollout.tokens) == limit
            torch.testing.assert_close(
                finished.rollout.vector, recipe("first", LIMIT)[place][1], atol=1e-5, rtol=0
            )


@pytest.mark.skipif(not fast_bfloat16(), reason="this CPU has no bfloat16 products")
def test_bfloat16_is_near_and_finds_the_same_neighbours(processor, prompts, recipe):
    wanted = recipe("first", LIMIT)
    model = load_model(TINY, dtype=torch.bfloat16)
    pack_weights(model)
    engine = NativeEngine(model, SpecialTokens.of(processor))
    found = sorted(engine.submit(prompts, Sampling(LIMIT)), key=lambda each: each.prompt)
    same = [each for each in found if each.rollout.tokens == wanted[each.prompt][0]]
    assert len(same) > len(found) / 2  # near ties fall either way
    for each in same:
        assert torch.cosine_similarity(each.rollout.vector, wanted[each.prompt][1], dim=0) > 0.999
    for each in found:
        assert torch.cosine_similarity(each.disc, wanted[each.prompt][3], dim=0) > 0.999
    ours, theirs = torch.stack([each.disc for each in found]), torch.stack([w[3] for w in wanted])
    assert torch.equal(nearest(ours), nearest(theirs))


def nearest(vectors):
    return (vectors @ vectors.T).fill_diagonal_(-1).argmax(1)
