"""The cases of the GPU suite: their order, what is not reached, what takes its process down."""

import json

import pytest
import torch
from gpu_results import row

from bench import gpu, gpu_cases
from bench.case import OURS
from bench.claims import CLAIMS
from bench.results import Results, load
from bench.steps import Deadline
from bench.suites import cases

OPTIONS = ("--quick", "--peers", "none")


def test_cases_with_an_aim_come_first_in_the_order_of_the_aims():
    ordered = gpu_cases.in_turn(cases("cuda"), "cuda", [])
    assert sorted(case.name for case in ordered) == sorted(case.name for case in cases("cuda"))
    aims = list(dict.fromkeys(claim.case for claim in CLAIMS if claim.device == "cuda"))
    assert [case.name for case in ordered[: len(aims)]] == aims


def test_a_run_goes_on_where_the_last_one_ended():
    """Cases that were never reached, then what failed or is partial, then what is good already."""
    chosen = gpu_cases.in_turn(cases("cuda", suites=["info_nce"]), "cuda", [])
    good, failed, partial, unreached, elsewhere, half, *others = [case.name for case in chosen]
    rows = [
        row(good),
        row(good, "umer1-cuda", "built without CUDA kernels"),
        row(good, "eager", "failed: out of memory"),
        row(failed, status="failed: no"),
        row(partial, partial=True),
        row(partial, "eager", "not reached in time", partial=True),
        row(unreached, status="not reached in time"),
        row(elsewhere, device="cpu"),
        row(half),
        row(half, "umer1-cuda", "wrong: query is 1.0 off"),
    ]
    ordered = [case.name for case in gpu_cases.in_turn(chosen, "cuda", rows)]
    assert ordered == [unreached, elsewhere, *others, failed, partial, half, good]


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_every_case_has_its_variants(quick):
    for case in cases("cuda", quick=quick):
        names = [variant.name for variant in case.chosen(torch.device("cuda"), None)]
        assert names[0] == OURS and len(set(names)) == len(names), case.name
        aims = {aim.variant for aim in CLAIMS if (aim.device, aim.case) == ("cuda", case.name)}
        assert aims <= set(names), case.name


def test_named_cases_come_in_the_order_they_are_named():
    names = [case.name for case in cases("cuda")]
    wanted = [names[5], names[0], names[3]]
    assert [case.name for case in cases("cuda", names=wanted)] == wanted


@pytest.fixture
def small():
    return cases("cpu", quick=True, suites=["group_reward", "gather_hidden"])


def test_what_is_not_reached_keeps_what_it_had(tmp_path, small):
    path = tmp_path / "gpu.json"
    old = [row(small[0].name, suite=small[0].suite, device="cpu")]
    path.write_text(json.dumps({"rows": old, "steps": [{"step": "build", "status": "ok"}]}))
    found = gpu_cases.measure(small, "cpu", Deadline(0), path, OPTIONS)
    assert (found.asked, found.done) == (2, set())
    rows = {each["case"]: each for each in load(path)}
    assert rows[small[0].name] == old[0]
    assert rows[small[1].name]["status"] == "not reached in time"
    assert json.loads(path.read_text())["steps"]  # stays


@pytest.mark.slow
def test_a_process_that_dies_costs_one_case(tmp_path, small, monkeypatch):
    path = tmp_path / "gpu.json"
    found = gpu_cases.measure(small, "cpu", Deadline(300), path, OPTIONS)
    assert found.done == {(case.suite, case.name) for case in small}
    assert [each["status"] for each in load(path)] == ["ok", "ok"]
    assert gpu_cases.failures(load(path), found) == []
    monkeypatch.setattr(gpu_cases, "LIMIT_PER_CASE", 0.001)
    found = gpu_cases.measure(small, "cpu", Deadline(300), path, OPTIONS)
    rows = load(path)
    assert [each["case"] for each in rows] == [case.name for case in small]
    assert all(each["status"].startswith("failed: its process ended") for each in rows)
    assert len(gpu_cases.failures(rows, found)) == 2


DYING = """
import os, sys
import bench.__main__ as bench, bench.suites.group_reward as suite
made = suite.GroupReward.variants
def variants(self, device):
    first, *rest = made(self, device)
    die = suite.Variant("dies", "loop", lambda **inputs: os._exit(7))
    return [first, die, *rest]
suite.GroupReward.variants = variants
sys.exit(bench.main(sys.argv[4:]))
"""


def test_what_ends_in_a_peer_keeps_our_rows(tmp_path, small, monkeypatch):
    """A good row of another run is kept instead."""
    path = tmp_path / "gpu.json"
    run = gpu_cases.run
    script = lambda command, *rest, **options: run([command[0], "-c", DYING, *command], *rest, **options)  # fmt: skip
    monkeypatch.setattr(gpu_cases, "run", script)
    found = gpu_cases.measure(small[:1], "cpu", Deadline(60), path, ("--quick", "--peers", "loop"))
    ours, dead, loop = load(path)
    assert (ours["variant"], ours["status"], ours["partial"]) == (OURS, "ok", True)
    assert ours["median_ms"] > 0 and ours["rounds"] >= 3
    assert dead["status"] == loop["status"] == "failed: its process ended with status 7: "
    assert found.done == {(small[0].suite, small[0].name)}
    assert gpu_cases.failures(load(path), found) == []

    results = Results(path)
    results.add([row(small[0].name, suite=small[0].suite, device="cpu", median_ms=9.0)])
    results.add_partial([ours, dead])
    assert [each["median_ms"] for each in results.rows] == [9.0]


def test_a_part_says_which_cases_failed(suite, small, monkeypatch):
    def measure(chosen, device, deadline, path, options=()):
        suite.file.content["rows"] = [row("a"), row("b", status="failed: no")]
        return gpu_cases.Measured(3, {("info_nce", "a"), ("info_nce", "b")})

    monkeypatch.setattr(gpu, "measure", measure)
    [made] = gpu.kernels(suite)
    assert (made.status, made.detail) == ("failed", "2 of 3 cases, failed: info_nce b")
