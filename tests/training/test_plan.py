"""The plan of a run: steps, tokens, time, whether it fits and what to change."""

import json
from dataclasses import replace

import pytest

from umer1.cli.recipes import find_config
from umer1.training import plan_time
from umer1.training.config import load_config
from umer1.training.plan import GIB, Question, make_plan, sharding_of
from umer1.training.plan_memory import count_parameters, read_shapes
from umer1.training.settings import RLConfig, SFTConfig

TWO, SEVEN = read_shapes("Qwen/Qwen2-VL-2B"), read_shapes("Qwen/Qwen2-VL-7B")


def sft(**changes):
    config = load_config(find_config("ume-r1-2b-sft"), SFTConfig)
    return Question(config, TWO, gpus=8, gpu_memory=140 * GIB, **changes)


def rl(**changes):
    config = load_config(find_config("ume-r1-2b-rl"), RLConfig)
    return Question(config, TWO, gpus=8, gpu_memory=140 * GIB, **changes)


def test_steps_tokens_and_time_are_arithmetic():
    question = sft(pairs=1_463_360, prompt_tokens=300, response_tokens=500, visual_tokens=200)
    plan = make_plan(replace(question, throughput=1e6))
    assert plan.steps == 5000 and plan.epochs == pytest.approx(3.4988, abs=1e-4)
    assert plan.tokens == 5000 * 1024 * 2 * 800
    assert plan.seconds == pytest.approx(plan.tokens / 1e6)
    assert plan.to_dict()["gpu_hours"] == pytest.approx(plan.seconds / 3600 * 8)
    assert plan.throughput_from == "the throughput given"
    assert len(plan.assumptions) == 1  # what CUDA takes

    epoch = make_plan(rl(pairs=11_000))
    assert epoch.steps == 343  # 687 batches of 16, two to an update
    assert epoch.tokens == 343 * 32 * 8 * 2 * (110 + 250 + 400)


def test_what_is_not_given_is_listed_as_assumed():
    texts = "\n".join(make_plan(sft()).assumptions)
    for word in ("1,463,360 pairs", "visual tokens", "length of responses", "989 TFLOP/s"):
        assert word in texts


def test_time_from_a_measured_row(tmp_path):
    row = {"suite": "train_sft", "family": "umer1", "hardware": "NVIDIA H200", "median_ms": 2000.0,
           "sizes": {"model": "2b", "flop": 1e15, "tokens": 1000}}  # fmt: skip
    other = [dict(row, family="hf"), dict(row, hardware="NVIDIA A100"), dict(row, sizes={"model": "0.1b", "flop": 1.0}),
             dict(row, median_ms=None), dict(row, median_ms=9000.0)]  # fmt: skip
    rl = dict(row, suite="train_rl", median_ms=500.0)
    (tmp_path / "h200.json").write_text(json.dumps({"rows": [*other, row, rl]}))
    (tmp_path / "broken.json").write_text("{")
    work = plan_time.Workload("sft", TWO, 1024, 300, 500, 200, 1, True, False)
    file, seconds = plan_time.measured(work, "h200", tmp_path)
    assert file == "bench/results/h200.json"
    assert seconds == pytest.approx(2.0 * plan_time.flop(work) / 1e15)
    assert plan_time.measured(work, "h100", tmp_path) is None
    _, seconds = plan_time.measured(replace(work, stage="rl"), "h200", tmp_path)
    assert seconds == pytest.approx(0.5 * work.tokens / 1000)


def test_operations_are_six_per_weight_and_token_and_a_little():
    work = plan_time.Workload("sft", TWO, 1, 300, 500, 0, 1, True, False)
    layers = count_parameters(TWO).decoder
    assert 1.0 < plan_time.flop(work) / (6 * layers * work.tokens) < 1.2
    seen = replace(work, visual=100)
    tower = count_parameters(TWO).tower
    frozen = plan_time.flop(seen) - plan_time.flop(work)
    assert frozen == pytest.approx(2 * 400 * tower, rel=0.01)
    trained = plan_time.flop(replace(seen, freeze_vision=False)) - plan_time.flop(work)
    assert trained == pytest.approx(3 * frozen)


def test_the_2b_recipe_fits_one_h200_and_the_7b_wants_sharding():
    assert make_plan(sft()).fits
    seven = replace(sft(), shapes=SEVEN)
    plan = make_plan(replace(seven, gpu_memory=80 * GIB))
    assert not plan.fits
    assert any("zero3" in text for text in plan.advice)
    assert make_plan(replace(seven, sharding="zero3", gpu_memory=80 * GIB)).fits


def test_memory_falls_with_sharding_and_with_checkpointing():
    peaks = [
        make_plan(replace(sft(), sharding=name)).peak for name in ("ddp", "zero1", "zero2", "zero3")
    ]
    assert peaks == sorted(peaks, reverse=True)
    plain = replace(sft().config, gradient_checkpointing=False)
    without = make_plan(replace(sft(), config=plain, gpu_memory=40 * GIB))
    assert without.memory["activations"] > 4 * make_plan(sft()).memory["activations"]
    assert without.advice


def test_rl_counts_the_reference_and_the_larger_of_rollouts_and_update():
    plan = make_plan(rl())
    assert plan.memory["reference"] == 4 * count_parameters(TWO).all
    without = make_plan(replace(rl(), config=replace(rl().config, beta=0.0)))
    assert "reference" not in without.memory and without.peak < plan.peak
    long = replace(rl().config, microbatch_tokens=1024, max_new_tokens=16384)
    assert "kv_cache" in make_plan(replace(rl(), config=long)).memory


def test_advice_is_true():
    """What the first line of advice says is what planning with that change finds."""
    question = replace(sft(), shapes=SEVEN, gpu_memory=80 * GIB)
    advice = next(text for text in make_plan(question).advice if "shard more: zero3" in text)
    made = make_plan(replace(question, sharding="zero3"))
    assert advice.endswith(f"{made.peak / GIB:.1f} GiB, {made.longest_peak / GIB:.1f} at most")


@pytest.mark.parametrize("change, message", [
    (dict(gpus=0), "gpus: got 0"), (dict(gpus=7), "batch_size 256 does not divide"),
    (dict(gpu="abacus"), "gpu: got 'abacus'"), (dict(throughput=0.0), "throughput: got 0.0"),
    (dict(sharding="zero9"), "sharding: got 'zero9'"),
])  # fmt: skip
def test_impossible_questions(change, message):
    with pytest.raises(ValueError, match=message):
        make_plan(replace(sft(), **change))


def test_sharding_of_a_config():
    assert sharding_of(SFTConfig()) == "ddp"
