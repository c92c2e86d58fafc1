"""What the benchmark calls the truth: against autograd in float64, with blocks smaller than the problem."""

from dataclasses import replace

import pytest
import torch

from bench import truth
from bench.case import errors, step
from bench.suites import MODULES, cases

CPU = torch.device("cpu")
# a variant that computes in the inputs' dtype, so in float64 here
PLAIN = {
    "group_reward": "released-loop",
    "gather_hidden": "loop",
    "decode_attention": "sdpa-gathered",
}
LINEAR = ("linear_cross_entropy", "linear_logprob", "grpo_loss")


def _small_cases():
    for case in cases("cpu", quick=True):
        if case.suite == "info_nce":
            yield replace(case, count=300, dim=20, dtype=torch.float64)
        elif case.suite in PLAIN:
            yield replace(case, dtype=torch.float64)
        elif case.suite in LINEAR:
            sizes = {"tokens": 90, "hidden_size": 24, "vocabulary": 70}
            yield replace(case, dtype=torch.float64, **sizes)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(truth, "ROW_BLOCK", 32)
    monkeypatch.setattr(truth, "COLUMN_BLOCK", 27)


@pytest.mark.parametrize("case", list(_small_cases()), ids=lambda case: f"{case.suite}-{case.name}")
def test_truth_equals_autograd(case):
    name = PLAIN.get(case.suite, "eager-bf16")
    plain = next(variant for variant in case.variants(CPU) if variant.name == name)
    problem = case.build(CPU)
    found = errors(step(plain.function, problem), case.truth(problem))
    assert set(found) == {"output", *problem.leaves}
    assert max(found.values()) < 1e-7, found  # grpo's and the masks' inputs are float32


def test_an_error_is_reported_at_its_size():
    [case] = cases("cpu", quick=True, suites=["gather_hidden"])
    problem = case.build(CPU)
    result = step(case.variants(CPU)[2].function, problem)
    result["hidden"] = result["hidden"] * 1.01
    assert errors(result, case.truth(problem))["hidden"] == pytest.approx(0.01, rel=0.05)


def test_rows_that_do_not_count_must_have_no_gradient():
    case = cases("cpu", quick=True, suites=["linear_cross_entropy"])[0]
    case = replace(case, tokens=90, hidden_size=24, vocabulary=70, dtype=torch.float32)
    problem = case.build(CPU)
    result = step(case.variants(CPU)[1].function, problem)
    expected = case.truth(problem)
    assert errors(result, expected)["hidden"] < 1e-5
    dead = (~case.rows_that_count(problem)).nonzero()[0]
    result["hidden"][dead] += 1.0
    assert errors(result, expected)["hidden"] > 0.1


# the engine beside its peers on a CPU, some of it in large cases alone; kernels of one device
DEVICES = {"dual_info_nce": ("cuda",), "packed_linear": ("cpu",)} | {
    suite: ("cpu",) for suite in MODULES if suite.startswith(("engine_", "eval_"))
}


def test_every_suite_has_small_and_full_cases_on_its_devices():
    for suite in MODULES:
        for device in DEVICES.get(suite, ("cpu", "cuda")):
            for quick in (False,) if suite.startswith(("engine_", "eval_")) else (True, False):
                assert cases(device, quick=quick, suites=[suite])
    for device in ("cpu", "cuda"):  # the name alone says which case to run again
        names = [case.name for case in cases(device)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("wrong", [{"suites": ["infonce"]}, {"names": ["one-way"]}])
def test_what_does_not_exist_is_named(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        cases("cpu", quick=True, **wrong)
