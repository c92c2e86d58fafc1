"""Values outside of a setting's range are refused by name, before anything is loaded."""

import dataclasses

import pytest

from umer1.training import settings_checks
from umer1.training.settings import OptimizerConfig, RLConfig, SFTConfig


@pytest.mark.parametrize("change, message", [
    (dict(steps=-1), "steps: got -1, wants 0 or more"),
    (dict(epochs=0.0), "epochs: got 0.0, wants more than 0"),
    (dict(epochs=float("nan")), "epochs: got nan, wants more than 0"),
    (dict(keep_checkpoints=-1), "keep_checkpoints: got -1, wants 0 or more"),
    (dict(save_every=-2), "save_every: got -2, wants 0 or more"),
    (dict(save_every_minutes=-0.5), "save_every_minutes: got -0.5, wants 0 or more"),
    (dict(log_every=0), "log_every: got 0, wants 1 or more"),
    (dict(gradient_accumulation=0), "gradient_accumulation: got 0, wants 1 or more"),
    (dict(batch_size=0), "batch_size: got 0, wants 1 or more"),
    (dict(group_size=-4), "group_size: got -4, wants 1 or more"),
    (dict(workers=-1), "workers: got -1, wants 0 or more"),
    (dict(prefetch=0), "prefetch: got 0, wants 1 or more"),
    (dict(samples_count=0), "samples_count: got 0, wants 1 or more"),
    (dict(mixed_precision="fp16"), "mixed_precision: got 'fp16', wants 'no' or 'bf16'"),
    (dict(on_nan="ignore"), "on_nan: got 'ignore', wants 'stop' or 'skip'"),
    (dict(bad_media="warn"), "bad_media: got 'warn', wants 'fatal' or 'skip'"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [SFTConfig, RLConfig])
def test_what_both_stages_share(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


@pytest.mark.parametrize("kind, change, message", [
    (SFTConfig, dict(scale=0.0), "scale: got 0.0, wants more than 0"),
    (SFTConfig, dict(max_length=0), "max_length: got 0, wants 1 or more"),
    (SFTConfig, dict(microbatch_tokens=-1), "microbatch_tokens: got -1, wants 0 or more"),
    (SFTConfig, dict(cross_entropy_weight=-1.0), "cross_entropy_weight: got -1.0, wants 0 or more"),
    (RLConfig, dict(temperature=0.0), "temperature: got 0.0, wants more than 0"),
    (RLConfig, dict(clip=(0.2, -0.1)), r"clip: got \(0.2, -0.1\), wants 0 or more"),
    (RLConfig, dict(beta=-0.1), "beta: got -0.1, wants 0 or more"),
    (RLConfig, dict(max_new_tokens=0), "max_new_tokens: got 0, wants 1 or more"),
    (RLConfig, dict(updates_per_rollout=0), "updates_per_rollout: got 0, wants 1 or more"),
    (RLConfig, dict(reward="best"), "reward: got 'best', wants 'rank_gap', .* or 'adaptive_threshold'"),
    (OptimizerConfig, dict(name="sgd"), "optimizer.name: got 'sgd', wants 'adamw'"),
    (OptimizerConfig, dict(schedule="zigzag"), "optimizer.schedule: got 'zigzag', wants 'cosine', 'linear' or"),
    (OptimizerConfig, dict(learning_rate=-1e-5), "optimizer.learning_rate: got -1e-05, wants 0 or more"),
    (OptimizerConfig, dict(betas=(0.9, 1.5)), r"optimizer.betas: got \(0.9, 1.5\), wants 0 to 1"),
    (OptimizerConfig, dict(warmup_ratio=3.0), "optimizer.warmup_ratio: got 3.0, wants 0 to 1"),
])  # fmt: skip
def test_what_one_stage_has(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_every_number_and_choice_there_is_has_a_range():
    checked = {name for names in settings_checks.RANGES.values() for name in names}
    checked |= settings_checks.CHOICES.keys() | {"generations", "length_buffer"}  # relations
    known = set()
    for kind in (SFTConfig, RLConfig):
        for each in dataclasses.fields(kind):
            known.add(each.name)
            number = type(each.default) in (int, float, tuple)
            assert not number or each.name in checked, each.name
    assert checked <= known
    optimizer = {each.name for each in dataclasses.fields(OptimizerConfig)}
    ranges = {name for names in settings_checks.OPTIMIZER_RANGES.values() for name in names}
    assert ranges | settings_checks.OPTIMIZER_CHOICES.keys() == optimizer
