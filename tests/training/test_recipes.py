"""Every recipe loads, says what it is, and holds the released values where it claims to."""

import pytest

from umer1.cli.recipes import RECIPES, find_config, list_recipes, stage_of
from umer1.training.config import load_config
from umer1.training.settings import RLConfig, SFTConfig

KINDS = {"sft": SFTConfig, "rl": RLConfig}
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load(name):
    path = find_config(name)
    return load_config(path, KINDS[stage_of(path)])


def test_what_there_is():
    assert {
        "ume-r1-2b-sft", "ume-r1-2b-rl", "ume-r1-7b-sft", "ume-r1-7b-rl", "dume-2b", "tiny-sft", "tiny-rl",
    } <= set(NAMES)  # fmt: skip
    assert [recipe["name"] for recipe in list_recipes()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_says_what_it_is(name):
    config, path = load(name), find_config(name)
    about = path.read_text().splitlines()[0]
    assert about.startswith("# ") and about.endswith(".") and len(about) < 150
    assert config.output and config.data and (config.model or config.tiny)
    wanted = "rl" if "rl" in name.split("-") else "sft"
    assert stage_of(path) == wanted


@pytest.mark.parametrize("name", ["ume-r1-2b-sft", "ume-r1-7b-sft", "dume-2b"])
def test_sft_has_the_released_values(name):
    config = load(name)
    optimizer = config.optimizer
    assert (config.steps, config.batch_size, config.gradient_accumulation) == (5000, 256, 4)
    assert (config.scale, config.max_length, config.freeze_vision) == (50.0, 12288, True)
    assert (optimizer.learning_rate, optimizer.warmup_ratio, optimizer.weight_decay) == (5e-5, 0.03, 0)  # fmt: skip
    assert (optimizer.schedule, optimizer.clip_grad_norm) == ("cosine", 1.0)
    assert (config.mixed_precision, config.gradient_checkpointing) == ("bf16", True)
    assert config.generative == (name != "dume-2b") and not config.mask_duplicates


@pytest.mark.parametrize("name", ["ume-r1-2b-rl", "ume-r1-7b-rl"])
def test_rl_has_the_released_values(name):
    config = load(name)
    assert (config.epochs, config.batch_size, config.gradient_accumulation) == (1, 16, 2)
    assert (config.generations, config.temperature, config.max_new_tokens) == (8, 1.0, 2048)
    assert (config.normalizer, config.beta, config.clip) == (2048, 0.04, (0.2, 0.28))
    assert (config.reward, config.format_weight, config.freeze_vision) == ("rank_gap", 1.0, False)
    assert (config.optimizer.learning_rate, config.optimizer.schedule) == (1e-6, "linear")
    assert config.save_every == 50


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tiny")])
def test_the_released_batches_divide_among_up_to_64_gpus(name):
    for gpus in (1, 8, 16, 32, 64):
        load(name).check_processes(gpus)


def test_the_sizes_differ_in_model_output_and_sharding_alone():
    for stage, more in (("sft", set()), ("rl", {"reference"})):
        small, large = (load(f"ume-r1-{size}-{stage}") for size in ("2b", "7b"))
        differ = {
            name
            for name in type(small).__dataclass_fields__
            if getattr(small, name) != getattr(large, name)
        }
        assert differ == {"model", "output", "fsdp"} | more


def test_a_config_that_fits_both_stages_is_told_by_its_name(tmp_path):
    text = "batch_size: 4\n"
    (tmp_path / "my-rl.yaml").write_text(text)
    assert stage_of(tmp_path / "my-rl.yaml") == "rl"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="--stage"):
        stage_of(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("generations: 4\n")
    assert stage_of(tmp_path / "mine.yaml") == "rl"
