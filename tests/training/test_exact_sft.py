"""SFT steps equal those of a plain-PyTorch trainer on transformers' model: losses and weights to 1e-5, float32."""

import pytest
from exactness import RELATIVE, assert_weights_equal, random_checkpoint, recipe_of, recorded_steps
from oracle import Oracle

from umer1.data.mini import Counts, build
from umer1.data.records import read_sft
from umer1.training import sft
from umer1.training.batching import GroupedBatches
from umer1.training.settings import OptimizerConfig, SFTConfig

LIMITS = dict(
    image_min_pixels=784, image_max_pixels=25088, video_min_pixels=784, video_max_pixels=3136, num_frames=8,
    blank_image="sft",
)  # fmt: skip


def _compare(config, pairs, monkeypatch):
    with recorded_steps(monkeypatch) as steps:
        model = sft.run(config, progress=False)
    start = type(model)(config.model)
    oracle = Oracle(start, recipe_of(config))
    batches = GroupedBatches(
        [pair.dataset for pair in pairs], config.batch_size, config.group_size, config.seed
    ).batches()
    for number in range(config.steps):
        wanted = oracle.sft([pairs[index] for index in next(batches)])
        for name, value in wanted.items():
            got = steps[number][name]
            assert got == pytest.approx(value, rel=RELATIVE), f"step {number}: {name}"
    return assert_weights_equal(model, oracle, start)


def test_a_few_steps_equal_the_released_formulas(records, tmp_path, monkeypatch):
    """Images, two images, videos and text in every batch."""
    pairs = read_sft(records / "sft.json", records)
    start = random_checkpoint(tmp_path / "start", pairs, {**LIMITS, "num_frames": 4}, spread=0.3, hidden=32, layers=2,
                              intermediate=64, vision_dim=32, vision_depth=1, vision_heads=2)  # fmt: skip
    config = SFTConfig(
        model=str(start), data=str(records / "sft.json"), output=str(tmp_path / "out"), steps=3, batch_size=12,
        group_size=4, seed=1, log_every=1, optimizer=OptimizerConfig(warmup_ratio=0.5),
    )  # fmt: skip
    _compare(config, pairs, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_thirty_steps_on_the_miniature_benchmark(frozen, tmp_path, monkeypatch):
    counts = Counts(multi_step=24, one_look=24, rl=2, evaluation=4)
    data = build(tmp_path / "mini", counts=counts, progress=False) / "train"
    pairs = read_sft(data / "sft.json", data)
    start = random_checkpoint(tmp_path / "start", pairs, LIMITS)
    config = SFTConfig(
        model=str(start), data=str(data / "sft.json"), output=str(tmp_path / "out"), steps=30, batch_size=32,
        group_size=8, seed=0, log_every=1, freeze_vision=frozen, optimizer=OptimizerConfig(warmup_ratio=0.1),
    )  # fmt: skip
    print("relative difference of weights, of updates:", _compare(config, pairs, monkeypatch))
