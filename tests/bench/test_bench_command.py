"""`python -m bench`: rows with everything in them, exports, and variants that fail without stopping the others."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from bench import __main__ as command
from bench import runner
from bench.case import OURS, Case
from bench.plots import plot
from bench.results import LIGER_COLUMNS
from bench.suites.group_reward import GroupReward

CPU = torch.device("cpu")
SMALL = ["--quick", "--seconds", "0.05"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    files = {"json": folder / "new" / "cpu.json", "csv": folder / "cpu.csv", "plot": folder / "png"}
    options = [f"--{name}={path}" for name, path in files.items()]
    cases = ["symmetric-1024-bf16", "one-way-1024-bf16", "b8-l128-h256-bf16"]
    chosen = ["--case", *cases, "--peers", "eager", "loop"]
    assert command.main([*SMALL, *chosen, *options]) == 0
    return files


def test_a_row_holds_everything(written):
    content = json.loads(written["json"].read_text())
    assert content["environment"]["packages"]["torch"]
    rows = {(row["case"], row["variant"]): row for row in content["rows"]}
    ours = rows["symmetric-1024-bf16", OURS]
    assert ours["status"] == "ok" and ours["plan"] and ours["sizes"]["N"] == 1024
    assert ours["p20_ms"] <= ours["median_ms"] <= ours["p80_ms"]
    assert ours["floor"] == "3 aten::mm of 1024 x 512 x 1024, bfloat16" and ours["floor_ms"] > 0
    assert ours["percent_of_floor"] > 0 and ours["time_to_best_peer"] > 0
    assert ours["errors"]["query"] <= 4e-3 and ours["errors"]["target"] <= 4e-3
    assert ours["hardware"] and ours["threads"] and ours["torch"] and ours["commit"]
    assert ours["measured_at"].startswith("20")
    assert set(ours["speedup"]) == {
        "eager",
        "eager-bf16",
        "eager-fp32-product",
        "eager-two-products",
    }
    eager = rows["symmetric-1024-bf16", "eager-bf16"]
    # logits, their log-softmax in two layouts and gradients: 8 bytes a logit, less the gradients
    assert eager["peak_bytes"] == pytest.approx(8 * 1024**2 - eager["result_bytes"], rel=0.01)
    assert ours["peak_to_baseline"] == ours["peak_bytes"] / eager["peak_bytes"]
    # the usual bfloat16 path is several times further off
    assert eager["errors"]["query"] > 4 * ours["errors"]["query"]


def test_csv_has_ligers_columns(written):
    with open(written["csv"]) as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LIGER_COLUMNS
    speed = [
        row for row in rows if row["kernel_name"] == "info_nce" and row["metric_name"] == "speed"
    ]
    assert {row["x_name"] for row in speed} == {"N"}
    assert all(float(row["y_value_20"]) <= float(row["y_value_80"]) for row in speed)
    assert {row["metric_name"] for row in rows} == {"speed", "memory"}


def test_plots_are_pictures(written):
    names = {path.name for path in written["plot"].iterdir()}
    assert names == {"floor-cpu.png"}  # one size is no curve
    for path in written["plot"].iterdir():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_scaling_is_drawn_from_two_sizes_on(written, tmp_path):
    rows = json.loads(written["json"].read_text())["rows"]
    larger = [
        {**row, "sizes": {**row["sizes"], "N": 2048}} for row in rows if row["suite"] == "info_nce"
    ]
    paths = plot([*rows, *larger], tmp_path)
    assert [path.name for path in paths] == ["scaling-cpu.png", "floor-cpu.png"]
    assert all(10_000 < path.stat().st_size < 150_000 for path in paths)
    first = paths[0].read_bytes()
    plot([*rows, *larger], tmp_path)
    assert paths[0].read_bytes() == first  # nothing changes, so nothing is to commit


def test_measuring_again_replaces_only_those_rows(written, tmp_path):
    file = tmp_path / "copy.json"
    before = json.loads(written["json"].read_text())
    file.write_text(json.dumps({**before, "steps": ["of the GPU suite"]}))
    before = before["rows"]
    again = ["--suite", "gather_hidden", "--peers", "none", f"--json={file}"]
    assert command.main([*SMALL, *again]) == 0
    content = json.loads(file.read_text())
    after = content["rows"]
    assert content["steps"] == ["of the GPU suite"]
    assert [row for row in after if row["suite"] == "info_nce"] == [
        row for row in before if row["suite"] == "info_nce"
    ]
    assert [row["variant"] for row in after if row["suite"] == "gather_hidden"] == [OURS]


def test_list_names_peers_and_why_they_are_missing(capsys):
    assert command.main(["--list", "--quick", "--suite", "linear_cross_entropy"]) == 0
    text = capsys.readouterr().out
    assert "t512-ignored-70-bf16" in text and "eager-bf16-compacted" in text


@pytest.mark.parametrize(
    "options, message",
    [
        (["--suite", "infonce"], "must be one of info_nce"),
        (["--case", "one-way"], "must be one of"),
        (["--peers", "cce"], "invalid choice"),
    ],
)
def test_wrong_options_are_named(capsys, options, message):
    with pytest.raises(SystemExit):
        command.main(options)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_a_gpu_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--device", "cuda"])
    assert "no CUDA device" in capsys.readouterr().err


class _Broken(GroupReward):
    """Ours 1 percent off; one peer that raises; one that cannot run here."""

    def variants(self, device):
        ours, loop, vectorised, _ = super().variants(device)

        def off(**inputs):
            return ours.function(**inputs) * 1.01

        def raises(**inputs):
            raise RuntimeError("no such kernel\nand more")

        return [
            replace(ours, function=off),
            replace(loop, function=raises),
            vectorised,
            replace(vectorised, name="absent", unavailable="absent is not installed"),
        ]


def test_what_is_wrong_is_not_timed_and_stops_nobody():
    case = _Broken(name="broken", dtype=torch.float32, pairs=4, dim=32)
    ours, loop, vectorised, absent = runner.measure(case, CPU, seconds=0.0, quick=True)
    assert ours["status"].startswith("wrong: output is 1.0e-02 off float64")
    assert loop["status"] == "failed: RuntimeError: no such kernel"
    assert absent["status"] == "absent is not installed"
    assert vectorised["status"] == "ok" and vectorised["median_ms"] > 0
    assert not any("median_ms" in row for row in (ours, loop, absent))


def test_a_case_that_cannot_be_built_is_a_row(monkeypatch, capsys):
    monkeypatch.setattr(Case, "chosen", lambda *_: 1 / 0)
    assert command.main([*SMALL, "--suite", "group_reward"]) == 1
    assert "failed: ZeroDivisionError: division by zero" in capsys.readouterr().out
