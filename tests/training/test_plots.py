"""Plots of runs."""

import json

import pytest
from PIL import Image

from umer1.training import plots


def run(folder, stage="sft", offset=0.0, **more):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "total": 3 - step / 10 + offset, "gen_hit": step / 10, "disc_hit": None, **more}
            for step in range(1, 11)]  # fmt: skip
    (folder / f"{stage}_metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_one_run_gets_the_charts_it_has_numbers_for(tmp_path):
    made = plots.plot_at_end(run(tmp_path / "one", tokens_per_second=1000.0))
    assert [path.name for path in made] == ["sft-losses.png", "sft-hits.png", "sft-throughput.png"]
    assert all(Image.open(path).size == (825, 462) for path in made)


def test_runs_are_drawn_over_each_other_and_stages_apart(tmp_path):
    one, two = run(tmp_path / "a" / "x"), run(tmp_path / "b" / "x", offset=1.0)
    run(two, stage="rl", kl=0.1)
    made = plots.plot_runs([one, two], tmp_path / "out")
    assert {path.name for path in made} == {
        "sft-losses.png", "sft-hits.png", "rl-losses.png", "rl-hits.png", "rl-kl.png",
    }  # fmt: skip
    assert plots._names([one, two]) == ["a/x", "b/x"]


def test_a_curve_has_the_points_of_its_run(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *args, **how: drawn.append(args) or plot(self, *args, **how)
    )
    plots.plot_at_end(run(tmp_path / "one"))
    assert [(list(steps), len(values)) for steps, values in drawn] == [(list(range(1, 11)), 10)] * 2
    assert drawn[0][1][0] == pytest.approx(2.9)


def test_errors(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: has no metrics"):
        plots.plot_runs([tmp_path / "empty"], tmp_path / "out")
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="matplotlib"):
        plots.plot_runs([run(tmp_path / "one")], tmp_path / "out")
    assert plots.plot_at_end(tmp_path / "one") == [] and "matplotlib" in capsys.readouterr().out
