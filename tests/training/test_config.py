"""Config files: right types, clear errors."""

import pytest

from umer1.training.config import load_config
from umer1.training.settings import RLConfig, SFTConfig


def _file(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_values_reach_the_config_and_overrides_win(tmp_path):
    path = _file(
        tmp_path,
        "data: x.json\nsteps: 7\noptimizer:\n  learning_rate: 5e-5\n  betas: [0.9, 0.95]\n",
    )
    config = load_config(path, SFTConfig, {"steps": 9, "optimizer.weight_decay": 0.1})
    assert (config.data, config.steps) == ("x.json", 9)
    assert config.optimizer.learning_rate == 5e-5 and config.optimizer.betas == (0.9, 0.95)
    assert config.optimizer.weight_decay == 0.1


def test_released_settings_are_the_defaults():
    sft, rl = SFTConfig(), RLConfig()
    assert (sft.scale, sft.batch_size, sft.group_size, sft.max_length, sft.freeze_vision) == (
        50,
        256,
        64,
        12288,
        True,
    )
    assert (
        sft.optimizer.learning_rate,
        sft.optimizer.warmup_ratio,
        sft.optimizer.clip_grad_norm,
    ) == (5e-5, 0.03, 1.0)
    assert (rl.generations, rl.temperature, rl.max_new_tokens, rl.normalizer) == (
        8,
        1.0,
        2048,
        2048,
    )
    assert (rl.beta, rl.clip, rl.freeze_vision, rl.batch_size) == (0.04, (0.2, 0.28), False, 16)


@pytest.mark.parametrize(
    "text, message",
    [
        ("stepz: 3", "unknown setting 'stepz'"),
        ("steps: many", "steps wants a whole number, got 'many'"),
        ("steps: 2.5", "steps wants a whole number, got 2.5"),
        ("freeze_vision: 1", "freeze_vision wants true or false"),
        ("optimizer: 3", "optimizer wants a mapping"),
        ("optimizer: {rate: 3}", "optimizer: unknown setting 'rate'"),
        ("[1, 2]", "wants a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_files_get_one_clear_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(_file(tmp_path, text), SFTConfig)


def test_one_generation_cannot_be_compared():
    with pytest.raises(ValueError, match="generations: got 1"):
        RLConfig(generations=1)
