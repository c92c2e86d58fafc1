"""On the CPU with packed weights a row's result is the same bits in every batch, order and arrival."""

from __future__ import annotations

import pytest
import torch

from umer1.engine import NativeEngine, Sampling, SpecialTokens
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.packed_layouts import fast_bfloat16
from umer1.model.packed_weights import obstacle, pack_weights
from umer1.model.qwen2_vl import Qwen2VL

GEN = 7
SPECIAL = SpecialTokens(GEN, 10_000)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def packed_model(request):
    if request.param == torch.bfloat16 and not fast_bfloat16():
        pytest.skip("this CPU has no bfloat16 products")
    vision = VisionConfig(depth=2, embed_dim=48, hidden_size=192, num_heads=2)
    config = ModelConfig(
        vocab_size=40, hidden_size=192, intermediate_size=1536, num_hidden_layers=3, num_attention_heads=12,
        num_key_value_heads=2, mrope_section=(2, 3, 3), tie_word_embeddings=True, initializer_range=0.1,
        vision=vision,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VL(config).reset_parameters().to(request.param).eval()
    if obstacle(model):
        pytest.skip(obstacle(model))
    pack_weights(model)
    return model


@pytest.fixture
def prompts(make_prompts):
    return make_prompts(9, seed=6, longest=90)


def collect(engine, prompts, order, sampling, samples):
    found = {}
    for finished in engine.submit([prompts[place] for place in order], sampling, samples=samples):
        rollout = finished.rollout
        found[order[finished.prompt], finished.sample] = (
            rollout.tokens,
            rollout.logprobs,
            rollout.vector,
            finished.disc,
        )
    return found


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    for key, (tokens, logprobs, vector, disc) in wanted.items():
        assert found[key][0] == tokens, key
        assert found[key][1] == logprobs, key
        assert torch.equal(found[key][2], vector), key
        assert torch.equal(found[key][3], disc), key


@pytest.mark.parametrize(
    "sampling", [Sampling(8), Sampling(6, temperature=1.0, seed=4)], ids=["greedy", "sampled"]
)
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_batch_and_order(packed_model, prompts, sampling, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        samples = 2 if sampling.temperature else 1
        wanted = {}
        for place in range(len(prompts)):
            wanted |= collect(
                NativeEngine(packed_model, SPECIAL, slots=1), prompts, [place], sampling, samples
            )
        assert len({tuple(tokens) for tokens, *_ in wanted.values()}) > 5
        assert any(GEN in tokens for tokens, *_ in wanted.values())
        orders = [list(range(9)), [4, 8, 0, 6, 2, 7, 1, 5, 3]]
        for slots, order in zip((2, 3, 7, 32), orders * 2):
            engine = NativeEngine(packed_model, SPECIAL, slots=slots)
            assert_same_bits(collect(engine, prompts, order, sampling, samples), wanted)
    finally:
        torch.set_num_threads(before)


def test_bits_do_not_depend_on_who_joins_when(packed_model, prompts):
    sampling = Sampling(14)
    wanted = collect(NativeEngine(packed_model, SPECIAL), prompts, list(range(9)), sampling, 1)
    engine = NativeEngine(packed_model, SPECIAL, slots=5)
    requests = []
    for prompt in prompts:
        requests.append(engine.add(prompt, sampling))
        engine.step()
        engine.step()
    engine.cancel(requests.pop(3))
    while not engine.idle:
        engine.step()
    for request, place in zip(requests, (0, 1, 2, 4, 5, 6, 7, 8)):
        (finished,) = request.results
        tokens, _, vector, disc = wanted[place, 0]
        assert finished.rollout.tokens == tokens
        assert torch.equal(finished.rollout.vector, vector) and torch.equal(finished.disc, disc)


def test_long_prompts_are_cut_alike_whoever_else_is_there(packed_model, prompts):
    sampling = Sampling(5)
    alone = {}
    for place in range(len(prompts)):
        engine = NativeEngine(packed_model, SPECIAL, prefill_tokens=32)
        alone |= collect(engine, prompts, [place], sampling, 1)
    engine = NativeEngine(packed_model, SPECIAL, prefill_tokens=32)
    assert_same_bits(collect(engine, prompts, list(range(9)), sampling, 1), alone)
