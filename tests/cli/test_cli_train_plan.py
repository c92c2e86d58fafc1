"""umer1 train plan, plot, recipes."""

import json

import pytest

from umer1.cli.recipes import list_recipes


def test_recipes_are_listed_with_a_line_each(run):
    lines = run("train", "recipes").out.splitlines()
    for recipe in list_recipes():
        assert any(line.startswith(recipe["name"]) and recipe["about"] in line for line in lines)
    assert json.loads(run("train", "recipes", "--json").out)["recipes"] == list_recipes()


def test_plan_prints_memory_steps_time_and_what_it_assumes(run):
    result = run("train", "plan", "--config", "ume-r1-2b-sft", "--gpus", "8")
    assert result.status == 0
    for text in ("2.209 billion parameters, 1.544 trained", "gradients", "5000 steps, 3.50 epochs", "fits", "assumed"):  # fmt: skip
        assert text in result.out, text


def test_plan_json(run):
    result = run("train", "plan", "-c", "ume-r1-2b-rl", "--gpus", "8", "--gpu-memory", "40", "--sharding", "zero3",
                 "--pairs", "1600", "--set", "epochs=2", "--json")  # fmt: skip
    plan = json.loads(result.out)
    assert plan["steps"] == 100 and plan["stage"] == "rl" and plan["gpu_memory"] == 40 << 30
    assert plan["model"] == "Qwen/Qwen2-VL-2B" and plan["peak"] == sum(plan["memory"].values())


@pytest.mark.parametrize("arguments, message", [
    (["-c", "nothing"], "no such recipe"), (["-c", "tiny-sft"], "model: no config.json in ''"),
    (["-c", "ume-r1-2b-sft", "--gpu", "abacus"], "--gpu: got 'abacus'"),
    (["-c", "ume-r1-2b-sft", "--stage", "both"], "--stage: got 'both'"),
    (["-c", "ume-r1-2b-sft", "--gpus", "3"], "gpus: got 3"),
])  # fmt: skip
def test_plan_refuses(run, arguments, message):
    result = run("train", "plan", *arguments)
    assert result.status == 1 and message in result.err


def test_plot(run, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "sft_metrics.jsonl").write_text('{"step": 1, "total": 2.0}\n')
    assert run("train", "plot", tmp_path / "a").status == 0
    assert (tmp_path / "a" / "plots" / "sft-losses.png").exists()
    out = tmp_path / "both"
    result = run("train", "plot", tmp_path / "a", tmp_path / "b", "--out", out, "--json")
    assert json.loads(result.out)["plots"] == [str(out / "sft-losses.png")]
    assert "--out: wants" in run("train", "plot", tmp_path / "a", tmp_path / "b").err
