"""The cases of the GPU suite: their order, what is not reached, what takes its process down."""

import json

import pytest
import torch
from gpu_results import row

from bench import gpu, gpu_cases
from bench.case import OURS
from bench.claims import CLAIMS
from bench.results import load
from bench.steps import Deadline
from bench.suites import cases

OPTIONS = ("--quick", "--peers", "none")


def test_cases_with_an_aim_come_first_in_the_order_of_the_aims():
    ordered = gpu_cases.by_importance(cases("cuda"), "cuda")
    assert sorted(case.name for case in ordered) == sorted(case.name for case in cases("cuda"))
    aims = list(dict.fromkeys(claim.case for claim in CLAIMS if claim.device == "cuda"))
    assert [case.name for case in ordered[: len(aims)]] == aims


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


def test_a_part_says_which_cases_failed(suite, small, monkeypatch):
    def measure(chosen, device, deadline, path, options=()):
        suite.file.content["rows"] = [row("a"), row("b", status="failed: no")]
        return gpu_cases.Measured(3, {("info_nce", "a"), ("info_nce", "b")})

    monkeypatch.setattr(gpu, "measure", measure)
    [made] = gpu.kernels(suite)
    assert (made.status, made.detail) == ("failed", "2 of 3 cases, failed: info_nce b")
