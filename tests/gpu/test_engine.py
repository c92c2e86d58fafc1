"""The engine on a GPU: graphs equal plain calls, a step never waits, rows do not depend on their batch, the CPU agrees."""

from __future__ import annotations

import random

import pytest
import torch

from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.engine.decode import BUCKETS
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
GEN, NEVER, ENDS = 7, 10_000, (3, 4)
SPECIAL = SpecialTokens(GEN, 9, ENDS)
DTYPES = [torch.float32, torch.bfloat16]
BACKENDS = ["auto", "reference", "triton"]


def build(dtype, device="cuda"):
    vision = VisionConfig(depth=2, embed_dim=64, hidden_size=128, num_heads=2)
    config = ModelConfig(
        vocab_size=200, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, vision=vision, mrope_section=(8, 12, 12), tie_word_embeddings=True,
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2VL(config).reset_parameters().eval().to(device, dtype)


def make_prompts(count, longest=90):
    chance, generator = random.Random(1), torch.Generator().manual_seed(1)
    result = []
    for number in range(count):
        length = chance.randint(9, longest)
        ids = torch.randint(0, 190, (length,), generator=generator)
        mask = torch.zeros(length, dtype=torch.bool)
        pixels, grid = None, torch.zeros(0, 3, dtype=torch.int64)
        if number % 2:
            mask[2:4] = True
            pixels = torch.randn(8, 1176, generator=generator)
            grid = torch.tensor([[1, 2, 4]])
        result.append(Prompt(Sequence(ids, mask, pixels, grid), number, 3))
    return result


def engine_of(model, **settings):
    return NativeEngine(model, SPECIAL, **{"slots": 16, "kv_memory": 64 << 20} | settings)


def collect(engine, prompts, sampling, samples=1):
    return {
        (each.prompt, each.sample): each
        for each in engine.submit(prompts, sampling, samples=samples)
    }


SETTINGS = [
    Sampling(24),
    Sampling(24, stop="eos"),
    Sampling(24, temperature=1.0, seed=3),
    Sampling(24, temperature=0.8, top_p=0.9, top_k=30, seed=4, max_think_tokens=5),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sampling", SETTINGS, ids=["greedy", "eos", "sampled", "truncated"])
def test_graphs_equal_plain_calls(dtype, sampling, backend):
    model, prompts = build(dtype), make_prompts(11)
    samples = 3 if sampling.temperature else 1
    plain = collect(engine_of(model, graphs=False, backend=backend), prompts, sampling, samples)
    recorded = collect(engine_of(model, backend=backend), prompts, sampling, samples)
    assert plain.keys() == recorded.keys() and len(plain) == 11 * samples
    for key, one in plain.items():
        other = recorded[key]
        for name in ("tokens", "logprobs", "hit", "finish"):
            assert getattr(one.rollout, name) == getattr(other.rollout, name), (key, name)
        assert torch.equal(one.rollout.vector, other.rollout.vector)
        assert torch.equal(one.disc, other.disc)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_writes_what_the_cpu_writes(backend):
    prompts = make_prompts(9)
    for sampling in (Sampling(24), Sampling(24, max_think_tokens=4)):
        for prefill_tokens in (33, 8192):
            on_cpu = collect(
                engine_of(build(torch.float32, "cpu"), prefill_tokens=prefill_tokens),
                prompts,
                sampling,
                2,
            )
            on_gpu = collect(
                engine_of(build(torch.float32), prefill_tokens=prefill_tokens, backend=backend),
                prompts,
                sampling,
                2,
            )
            for key, one in on_cpu.items():
                other = on_gpu[key]
                assert one.rollout.tokens == other.rollout.tokens
                assert (one.rollout.hit, one.rollout.finish) == (
                    other.rollout.hit,
                    other.rollout.finish,
                )
                torch.testing.assert_close(
                    other.rollout.vector.cpu(), one.rollout.vector, atol=1e-3, rtol=0
                )
                torch.testing.assert_close(other.disc.cpu(), one.disc, atol=1e-3, rtol=0)


def test_bfloat16_stays_close_to_float32():
    prompts, sampling = make_prompts(8), Sampling(1)
    single = collect(engine_of(build(torch.float32)), prompts, sampling)
    half = collect(engine_of(build(torch.bfloat16)), prompts, sampling)
    for key, one in single.items():
        assert torch.cosine_similarity(one.disc, half[key].disc, dim=0) > 0.995


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_do_not_depend_on_their_batch_within_a_bucket(dtype, backend):
    """Every prompt is read alone first; then five to eight rows decode together, in any order."""
    model, prompts, sampling = build(dtype), make_prompts(8), Sampling(20)
    engine = engine_of(model, slots=8, backend=backend)
    for prompt in prompts:
        collect(engine, [prompt], Sampling(1))
    wanted, across = {}, {}
    for place, prompt in enumerate(prompts):
        eight = collect(engine, [prompt], sampling, 8)
        wanted[place] = eight[0, 0].rollout
        assert all(
            torch.equal(each.rollout.vector, wanted[place].vector) for each in eight.values()
        )
        across[place] = collect(engine, [prompt], sampling)[0, 0].rollout
    for size in (5, 6, 8):
        order = random.Random(size).sample(range(8), size)
        requests = [engine.add(prompts[place], sampling) for place in order]
        while not engine.idle:
            engine.step()
        # rows that outlive the others move to smaller buckets: compare those that ended in this one
        lengths = [len(request.results[0].rollout.tokens) for request in requests]
        for place, request, length in zip(order, requests, lengths):
            rollout = request.results[0].rollout
            if sum(other >= length for other in lengths) > 4:
                assert rollout.tokens == wanted[place].tokens
                assert torch.equal(rollout.vector, wanted[place].vector)
    for place, rollout in across.items():
        if rollout.tokens == wanted[place].tokens:
            assert torch.cosine_similarity(rollout.vector, wanted[place].vector, dim=0) > 0.9999


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_decode_step_never_waits_for_the_device(dtype, backend):
    engine = NativeEngine(
        build(dtype), SpecialTokens(NEVER, NEVER), slots=8, kv_memory=64 << 20, backend=backend
    )
    for prompt in make_prompts(6):
        engine.add(prompt, Sampling(40, temperature=1.0, top_p=0.9))
    for _ in range(4):
        engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    while not engine.idle:
        engine.step()


def test_results_are_read_one_step_late_and_none_is_lost():
    engine = engine_of(build(torch.bfloat16))
    assert engine.stepper.late
    request = engine.add(make_prompts(1)[0], Sampling(1))
    engine.step()
    assert not request.results and not engine.idle
    while not engine.idle:
        engine.step()
    assert len(request.results) == 1


def test_cancelled_rows_leave_the_others_alone():
    model, prompts, sampling = build(torch.float32), make_prompts(6), Sampling(30)
    wanted = collect(engine_of(model), prompts, sampling)
    engine = engine_of(model)
    requests = [engine.add(prompt, sampling) for prompt in prompts]
    for number in (1, 4):
        engine.step()
        engine.step()
        engine.cancel(requests[number])
        engine.stepper.scheduler.check()
    while not engine.idle:
        engine.step()
    for place in (0, 2, 3, 5):
        assert requests[place].results[0].rollout.tokens == wanted[place, 0].rollout.tokens


def test_new_weights_in_place_reach_recorded_graphs():
    model, prompts = build(torch.float32), make_prompts(3)
    engine = engine_of(model)
    before = collect(engine, prompts, Sampling(8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    engine.load([], version=1)
    after, fresh = (collect(each, prompts, Sampling(8)) for each in (engine, engine_of(model)))
    for key, one in after.items():
        assert one.rollout.version == 1 and torch.equal(
            one.rollout.vector, fresh[key].rollout.vector
        )
        assert not torch.equal(one.rollout.vector, before[key].rollout.vector)


def test_memory_is_counted_taken_and_given_back():
    model = build(torch.bfloat16)
    engine = NativeEngine(model, SPECIAL, slots=8)
    prompts = make_prompts(4)
    collect(engine, prompts, Sampling(4), samples=1)
    told = engine.describe()
    assert "free on cuda" in told["memory"] and told["pages"] > 8
    held = torch.cuda.memory_allocated()
    engine.sleep()
    pages = told["pages"] * 2 * 3 * 64 * 64 * 2
    assert held - torch.cuda.memory_allocated() >= pages
    engine.wake()
    assert len(collect(engine, prompts, Sampling(4))) == 4


def test_disc_vectors_alone_take_no_key_value_memory():
    engine = NativeEngine(build(torch.bfloat16), SPECIAL)
    found = list(engine.submit(make_prompts(5), Sampling(), samples=0))
    assert len(found) == 5 and engine.stepper._decode is None


def test_buckets_cover_every_number_of_rows():
    step = engine_of(build(torch.float32), slots=300).stepper.decode()
    for count in range(1, 301):
        assert step._bucket(count) >= count
    assert {step._bucket(size) for size in BUCKETS} == set(BUCKETS) and step._bucket(257) == 512
