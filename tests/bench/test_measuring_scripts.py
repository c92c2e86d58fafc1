"""The measuring scripts: what they say of the machine, and how the bundled model's figures come about."""

import torch

from bench import environment as environments
from bench.environment import environment
from bench.tiny_model import compared, summary


def test_environment_names_versions_and_commit():
    found = environment()
    assert (
        found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"]
    )
    assert {"gpu", "driver", "cpu", "python", "commit", "uncommitted_changes"} <= set(found)


def test_equal_digests_mean_equal_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    empty = environments.sources()
    (tmp_path / "csrc" / "cuda" / "a.cu").write_text("int a;")
    first = environments.sources()
    (tmp_path / "README.md").write_text("not a source")
    assert first == environments.sources() != empty
    (tmp_path / "csrc" / "cuda" / "a.cu").write_text("int b;")
    assert environments.sources() not in (first, empty)


def test_a_copy_without_history_is_told_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["commit"] is None
    monkeypatch.setenv("UMER1_COMMIT", "abc")
    assert environment()["commit"] == "abc"


def _run(gen, disc, oracle, sft_gen):
    def stage(gen):
        groups = {"gen": gen, "disc": disc, "oracle": oracle, "pass@1": gen - 0.1, "pass@16": gen}
        sums = {"kind": "multi_step", "gen": gen, "disc": disc}
        return {"groups": {"overall": groups, "one_look": groups}, "tasks": {"digit_sum": sums}}

    return {"sft": stage(sft_gen), "rl": stage(gen)}


def test_summary_is_in_points_with_the_seeds_spread():
    found = summary({0: _run(0.8, 0.5, 0.85, 0.7), 1: _run(0.6, 0.5, 0.7, 0.6)}, "rl")
    assert found["gen_above_disc"] == {"mean": 20.0, "low": 10.0, "high": 30.0}
    assert found["gen_above_disc_on"]["digit_sum"]["low"] == 10.0
    assert found["oracle_above_both"] == {"mean": 7.5, "low": 5.0, "high": 10.0}
    assert found["rl_above_sft_gen"] == {"mean": 5.0, "low": 0.0, "high": 10.0}
    assert found["pass@16_above_pass@1"]["mean"] == 10.0
    assert found["disc_on_one_look"]["mean"] == 50.0


def test_a_recipe_is_compared_mean_with_mean():
    before = {stage: summary({0: _run(0.8, 0.5, 0.85, 0.7)}, stage) for stage in ("sft", "rl")}
    now = {stage: summary({0: _run(0.81, 0.49, 0.85, 0.7)}, stage) for stage in ("sft", "rl")}
    found = compared(now, before)
    assert {name: each["reached"] for name, each in found.items()} == {
        "sft gen": True, "sft disc": False, "rl gen": True, "rl disc": False,
    }  # fmt: skip
    assert found["rl gen"]["difference"] == 1.0 and found["sft gen"]["difference"] == 0.0
    assert found["rl disc"]["now"]["mean"] == 49.0 and found["rl disc"]["bundled"]["mean"] == 50.0
