"""RL steps equal those of a plain-PyTorch GRPO on transformers' model: rewards, losses and weights to 1e-5, float32.

The oracle samples with generate() and the engine's uniform numbers, so its tokens are its own; it reads its vectors from
its own forward, as the release does.
"""

from pathlib import Path

import pytest
import torch
from exactness import (
    RELATIVE,
    assert_weights_equal,
    recipe_of,
    recorded_rollouts,
    recorded_steps,
    written_for,
)
from oracle import Oracle

from umer1.data.mini import Counts, build
from umer1.data.records import read_rl
from umer1.embedder import BUNDLED
from umer1.model.checkpoint import load_model, save_model
from umer1.processor import Processor
from umer1.training import rl
from umer1.training.batching import GroupedBatches
from umer1.training.settings import OptimizerConfig, RLConfig


@pytest.fixture
def start(tmp_path):
    """The bundled model in float32: its rollouts have rewards that differ."""
    directory = tmp_path / "start"
    save_model(load_model(BUNDLED["tiny"], dtype=torch.float32), directory)
    Processor.load(BUNDLED["tiny"]).save(directory)
    return directory


def _compare(config, pairs, monkeypatch):
    with (
        recorded_steps(monkeypatch) as steps,
        recorded_rollouts(monkeypatch) as (calls, rewards),
    ):
        model = rl.run(config, progress=False)
    oracle = Oracle(config.model, recipe_of(config))
    batches = GroupedBatches(
        [pair.dataset for pair in pairs], config.batch_size, config.group_size, config.seed
    ).batches()
    assert len(calls) == len(rewards) == config.steps
    spread = 0.0
    for number in range(config.steps):
        chosen = [pairs[index] for index in next(batches)]
        wanted = oracle.rl(chosen, written_for(calls[number], oracle, chosen))
        # positive and negative advantages nearly cancel: relative to the sum of the terms' sizes
        allowed = RELATIVE * wanted["loss_magnitude"]
        for side, reward in wanted["rewards"].items():
            got = rewards[number][side]
            # where a group's rewards are all but equal, A = (R - mean) / (std + 1e-4) turns the last bits of R into 1e-3
            rounding = (got.double() - reward.double()).abs().amax(1, keepdim=True)
            allowed += float((2 * rounding * wanted["loss_by_reward"][side].double()).sum())
            torch.testing.assert_close(got.double(), reward.double(), atol=RELATIVE, rtol=RELATIVE)
            spread = max(spread, float(reward.std(1).max()))
        for name in ("reward", "format", "rank", "gap", "missing"):
            got = steps[number][name]
            assert got == pytest.approx(wanted[name], rel=RELATIVE, abs=1e-7), f"{number}: {name}"
        assert abs(steps[number]["loss"] - wanted["loss"]) <= allowed, f"step {number}: loss"
        # a sum of squares of what rounding leaves of two log-probabilities, 1e-6 each
        assert steps[number]["kl"] == pytest.approx(wanted["kl"], rel=1e-4, abs=1e-9), number
    assert spread > 1e-3, "the rollouts' rewards never differed"
    assert oracle.other_draws <= max(1, oracle.draws // 10_000), (oracle.other_draws, oracle.draws)
    return assert_weights_equal(model, oracle, Path(config.model), of_updates=2e-2)


def test_a_few_steps_equal_the_released_formulas(records, start, tmp_path, monkeypatch):
    """Image, video and text prompts; both sides rolled out."""
    pairs = read_rl(records / "rl.json", records)
    config = RLConfig(
        model=str(start), data=str(records / "rl.json"), output=str(tmp_path / "out"), steps=2, batch_size=4,
        generations=4, max_new_tokens=32, seed=1, log_every=1, rollout_slots=16,
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup_ratio=0.0, schedule="linear"),
    )  # fmt: skip
    _compare(config, pairs, monkeypatch)


@pytest.mark.slow
def test_ten_steps_on_the_miniature_benchmark(start, tmp_path, monkeypatch):
    counts = Counts(multi_step=2, one_look=2, rl=12, evaluation=4)
    data = build(tmp_path / "mini", counts=counts, progress=False) / "train"
    pairs = read_rl(data / "rl.yaml", data)
    config = RLConfig(
        model=str(start), data=str(data / "rl.yaml"), output=str(tmp_path / "out"), steps=10, batch_size=8,
        generations=8, max_new_tokens=56, seed=0, log_every=1, rollout_slots=128,
        optimizer=OptimizerConfig(learning_rate=1e-6, warmup_ratio=0.0, schedule="linear"),
    )  # fmt: skip
    print("relative difference of weights, of updates:", _compare(config, pairs, monkeypatch))
