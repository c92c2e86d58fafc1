"""The plan of a run: steps, tokens, time, whether it fits and what to change."""

import json
from dataclasses import replace

import pytest

from umer1.cli.recipes import find_config
from umer1.training import plan_time
from umer1.training.config import load_config
from umer1.training.plan import GIB, make_plan, sharding_of
from umer1.training.plan_memory import cache_bytes, count_parameters, read_shapes
from umer1.training.plan_question import Question
from umer1.training.settings import RLConfig, SFTConfig

TWO, SEVEN = read_shapes("Qwen/Qwen2-VL-2B"), read_shapes("Qwen/Qwen2-VL-7B")


def sft(**changes):
    config = load_config(find_config("ume-r1-2b-sft"), SFTConfig)
    return Question(config, TWO, gpus=8, gpu_memory=140 * GIB, **changes)


def rl(settings=None, **changes):
    config = load_config(
        find_config("ume-r1-2b-rl"), RLConfig, {"save_every": 0, **(settings or {})}
    )
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
    twice = make_plan(rl({"updates_per_rollout": 2}, pairs=11_000))
    assert twice.steps == 686 and twice.epochs == pytest.approx(epoch.epochs)
    assert epoch.tokens == 343 * 32 * 2 * (110 + 250 + 8 * 400)
    copied = make_plan(rl({"share_prompts": False}, pairs=11_000))
    assert copied.tokens == 343 * 32 * 2 * 8 * (110 + 250 + 400)


def test_more_updates_take_no_more_rollouts():
    once, four = (make_plan(rl({"updates_per_rollout": updates})) for updates in (1, 4))
    assert four.steps == 4 * once.steps
    assert once.seconds < four.seconds < 2.5 * once.seconds
    # a log's rate is of the whole round, whatever its updates
    rates = [make_plan(rl({"updates_per_rollout": updates}, throughput=1e5)) for updates in (1, 4)]
    assert rates[0].seconds == pytest.approx(rates[1].seconds)


def test_grad_cache_takes_a_third_longer_where_a_batch_is_cut():
    plain, cut, whole = (
        make_plan(replace(sft(), config=replace(sft().config, microbatch_tokens=tokens)))
        for tokens in (0, 16384, 10**9)
    )
    assert cut.seconds == pytest.approx(
        plain.seconds * 5 / 4
    )  # four of a step's three with checkpointing
    assert whole.seconds == plain.seconds


def test_a_discriminative_run_has_no_responses_and_no_vocabulary():
    """DUME: sequences end at `<disc_emb>`."""
    config = load_config(find_config("dume-2b"), SFTConfig)
    dume, both = make_plan(replace(sft(), config=config)), make_plan(sft())
    assert dume.tokens == dume.steps * 1024 * 2 * (110 + 250)
    assert "loss" not in dume.memory and dume.peak < both.peak and dume.seconds < both.seconds / 2
    assert not any("responses" in text for text in dume.assumptions)


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
    work = plan_time.Workload(
        "sft", TWO, 1024, 300, 500, 200, freeze_vision=True, checkpointing=False
    )
    file, seconds = plan_time.measured(work, "h200", tmp_path)
    assert file == "bench/results/h200.json"
    assert seconds == pytest.approx(2.0 * plan_time.learning_flop(work) / 1e15)
    assert plan_time.measured(work, "h100", tmp_path) is None
    _, cached = plan_time.measured(replace(work, grad_cache=True), "h200", tmp_path)
    assert cached == pytest.approx(seconds * 4 / 3)
    rollouts = replace(work, stage="rl", rollouts=8, share_prompts=True)
    _, seconds = plan_time.measured(rollouts, "h200", tmp_path)
    assert seconds == pytest.approx(0.5 * 8 * work.tokens / 1000)
    _, twice = plan_time.measured(replace(rollouts, updates=2), "h200", tmp_path)
    assert seconds < twice < 2 * seconds


def test_operations_are_six_per_weight_and_token_and_a_little():
    work = plan_time.Workload("sft", TWO, 1, 300, 500, 0, freeze_vision=True, checkpointing=False)
    layers = count_parameters(TWO).decoder
    assert 1.0 < plan_time.learning_flop(work) / (6 * layers * work.tokens) < 1.2
    seen = replace(work, visual=100)
    tower = count_parameters(TWO).tower
    frozen = plan_time.learning_flop(seen) - plan_time.learning_flop(work)
    assert frozen == pytest.approx(2 * 400 * tower, rel=0.01)
    trained = plan_time.learning_flop(replace(seen, freeze_vision=False)) - plan_time.learning_flop(
        work
    )
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


def test_rollouts_reserve_every_prompt_that_can_be_in_work():
    settings = {"microbatch_tokens": 1024, "max_new_tokens": 1024}
    for visual, gpus, prompts, slots in (
        (500, 8, 8, 64),
        (6000, 8, 8, 64),
        (500, 1, 64, 128),
        (500, 64, 4, 8),
    ):
        plan = make_plan(replace(rl(settings, visual_tokens=visual), gpus=gpus))
        tokens = prompts * (110 + visual // 2) + slots * 1024
        assert plan.memory["kv_cache"] == cache_bytes(TWO, tokens, 2)


def test_advice_is_true():
    """What the first line of advice says is what planning with that change finds."""
    question = replace(sft(), shapes=SEVEN, gpu_memory=80 * GIB)
    advice = next(text for text in make_plan(question).advice if "shard with zero3" in text)
    made = make_plan(replace(question, sharding="zero3"))
    assert advice.endswith(f"{made.peak / GIB:.1f} GiB, {made.longest_peak / GIB:.1f} at most")


@pytest.mark.parametrize("change, message", [
    (dict(gpus=0), "gpus: got 0"), (dict(gpus=7), "batch_size: got 256, wants a multiple .* 7"),
    (dict(gpu="abacus"), "gpu: got 'abacus'"), (dict(throughput=0.0), "throughput: got 0.0"),
    (dict(sharding="zero9"), "sharding: got 'zero9'"),
])  # fmt: skip
def test_impossible_questions(change, message):
    with pytest.raises(ValueError, match=message):
        make_plan(replace(sft(), **change))


def test_sharding_of_a_config(tmp_path):
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    assert sharding_of(SFTConfig()) == "ddp" and sharding_of(SFTConfig(fsdp=True)) == "fsdp"
    assert sharding_of(SFTConfig(deepspeed=str(tmp_path / "zero3.json"))) == "zero3"
