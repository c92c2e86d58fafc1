"""DeepSpeed JSON files: the released one is taken as it is; what contradicts the training config is refused."""

import json

import pytest

from umer1.training.deepspeed_config import filled, read_deepspeed
from umer1.training.settings import SFTConfig

# the released recipe's: ZeRO-3, everything left to the trainer
RELEASED = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16,
             "hysteresis": 2, "min_loss_scale": 1},
    "bf16": {"enabled": "auto"},
    "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto", "gradient_accumulation_steps": "auto",
    "zero_optimization": {
        "stage": 3, "overlap_comm": True, "contiguous_gradients": True, "sub_group_size": 1e9,
        "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9, "stage3_gather_16bit_weights_on_model_save": True,
    },
}  # fmt: skip


def _filled(settings, **config):
    config = {"mixed_precision": "bf16", "gradient_accumulation": 4, **config}
    return filled(settings, SFTConfig(**config), processes=64, hidden_size=1536)


def test_every_auto_of_the_released_json_is_filled_from_the_config():
    before = json.dumps(RELEASED)
    got = _filled(RELEASED)
    assert json.dumps(RELEASED) == before and '"auto"' not in json.dumps(got)
    assert got["train_micro_batch_size_per_gpu"] == 4 and got["train_batch_size"] == 1024
    assert got["gradient_accumulation_steps"] == 4 and got["gradient_clipping"] == 1.0
    assert got["bf16"]["enabled"] is True and got["fp16"]["enabled"] is False
    assert got["zero_optimization"]["reduce_bucket_size"] == 1536 * 1536
    assert got["zero_optimization"]["stage3_param_persistence_threshold"] == 15360
    assert got["zero_optimization"]["sub_group_size"] == 1e9
    assert _filled(RELEASED, mixed_precision="no")["bf16"]["enabled"] is False


@pytest.mark.parametrize("change, message", [
    ({"train_batch_size": 999}, "train_batch_size is 999, but the batch of a step .* makes it 1024"),
    ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but optimizer.clip_grad_norm"),
    ({"fp16": {"enabled": True}}, "fp16.enabled is True, but mixed_precision"),
    ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}, "has its own optimizer .lr is 0.0001"),
    ({"optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.8, 0.999]}}},
     r"has its own optimizer \(betas is \[0.8, 0.999\]\)"),
    ({"optimizer": {"type": "OneBitAdam", "params": {"lr": "auto"}}}, "optimizer.type is 'OneBitAdam', but umer1 .* AdamW"),
    ({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1e-4}}}, "has its own scheduler"),
    ({"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto"}}},
     "scheduler.type is 'WarmupDecayLR', but optimizer.schedule of the training config is 'cosine'"),
    ({"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": "auto"}}}, "scheduler.type is 'OneCycle', but"),
    ({"aio": {"block_size": "auto"}}, "aio.block_size is 'auto', which umer1 has no value for"),
])  # fmt: skip
def test_what_contradicts_the_training_config_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        _filled({**RELEASED, **change})


def test_an_optimizer_left_to_the_trainer_is_the_trainers():
    for kind in ("AdamW", "Adam"):
        section = {"type": kind, "params": {"lr": "auto", "betas": "auto", "eps": "auto"}}
        assert "optimizer" not in _filled({**RELEASED, "optimizer": section})


def test_a_schedule_that_is_the_configs_may_stand_in_the_json():
    section = {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto"}}
    assert "scheduler" not in _filled({**RELEASED, "scheduler": section})


@pytest.mark.parametrize("text, message", [
    (None, "cannot read"), ("{", "is not JSON"), ("[]", "holds list"), ("{}", "stage is None, wants 1, 2 or 3"),
    ('{"zero_optimization": {"stage": 0}}', "stage is 0"),
])  # fmt: skip
def test_a_file_that_is_none_is_named(text, message, tmp_path):
    path = tmp_path / "zero.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"deepspeed: .*{message}"):
        read_deepspeed(path)
