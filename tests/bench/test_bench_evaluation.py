"""The evaluation bench: ours and the released loop give the same vectors; its loop reads the right step."""

import dataclasses

import pytest
import torch

from bench import claims, gpu, report
from bench.case import OURS, errors, step
from bench.evaluation import ours
from bench.evaluation.workload import EvaluationWorkload, Side, missing
from bench.peers import released_evaluation
from bench.runner import provenance
from bench.suites import cases, eval_mini

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workload():
    if missing():
        pytest.skip(missing())
    return EvaluationWorkload(2)


@pytest.fixture(scope="module")
def few(workload):
    """The same models, some items of three modalities."""
    found = EvaluationWorkload(2)
    found.__dict__ |= {name: getattr(workload, name) for name in ("embedder", "transformers")}
    kinds = {}
    for side in workload.sides:
        kinds.setdefault((side.modality, side.side), side)
    found.__dict__["sides"] = [
        dataclasses.replace(side, items=side.items[:5]) for side in kinds.values()
    ]
    assert len(found.sides) == 6 and sum(len(side.items) for side in found.sides) >= 15
    return found


def test_the_whole_benchmark_is_embedded(workload):
    assert len({side.task for side in workload.sides}) == 14
    assert [side.side for side in workload.sides] == ["qry", "tgt"] * 14
    assert {len(side.items) for side in workload.sides if side.side == "qry"} == {2}
    assert str(sum(len(side.items) for side in workload.sides)) in workload.describe()


def test_both_ways_make_the_same_vectors(few, workload):
    theirs = released_evaluation.vectors(few)
    assert len(torch.unique(theirs.round(decimals=3), dim=0)) > 12
    for rows in (3, 64):
        torch.testing.assert_close(ours.vectors(few, rows), theirs, atol=1e-5, rtol=0)
    # and neither depends on how it cuts its batches
    alone = [
        released_evaluation.side_vectors(few, Side("", "qry", side.modality, [item]))
        for side in few.sides
        for item in side.items
    ]
    torch.testing.assert_close(theirs, torch.cat(alone), atol=1e-5, rtol=0)


def test_the_case_compares_all_vectors(few):
    [case] = cases("cpu", quick=False, suites=["eval_mini"])
    problem = dataclasses.replace(case.build(CPU), inputs={"workload": few})
    expected = case.truth(problem)
    assert len(expected["output"].values) == sum(len(side.items) for side in few.sides)
    for variant in case.variants(CPU):
        result = step(variant.function, problem)
        assert errors(result, expected)["output"] < 1e-5
    result["output"][3] = -result["output"][3]
    assert errors(result, expected)["output"] > case.tolerance == case.peer_tolerance


@pytest.mark.parametrize(
    "tokens, wanted",
    [
        ([5, 7, 9, 3, 3], 2),  # written second, read third
        ([5, 7, 8, 7, 3], 4),  # the last of two
        ([5, 8, 3, 7, 3], 2),  # after the end of the row it is padding: its own last input
        ([5, 8, 8, 8, 8], 4),  # cut short
        ([5, 8, 8, 8, 7], 4),  # in the last place: no step has read it
    ],
)
def test_the_step_that_has_read_the_token(tokens, wanted):
    assert released_evaluation.read_step(tokens, gen_id=7, eos_id=3) == wanted


def test_it_has_an_aim_and_a_place_in_the_report_and_in_no_gpu_part_of_the_kernels():
    [case] = cases("cpu", quick=False, suites=["eval_mini"])
    assert case.name == "gen-40-tiny-fp32" and not cases("cpu", quick=True, suites=["eval_mini"])
    common = {"suite": case.suite, "case": case.name, "status": "ok", "errors": {"output": 1e-6},
              "sizes": case.sizes(), "dtype": "float32", "device": "cpu", **provenance(CPU)}  # fmt: skip
    times = {"p20_ms": 1.0, "p80_ms": 1.0}
    rows = [
        common | times | {"variant": OURS, "median_ms": 10.0, "speedup": {eval_mini.RELEASED: 4.0}},
        common | times | {"variant": eval_mini.RELEASED, "median_ms": 40.0},
    ]
    [verdict] = [each for each in claims.verdicts(rows, "cpu") if each.claim.suite == case.suite]
    assert verdict.measured == 4.0 and verdict.claim.wanted == 3
    found = report.Found("cpu", rows, [])
    assert "| eval_mini gen-40-tiny-fp32 | released | 40.0 (1.00 to 1.00)" in report.engine_table(
        found
    )
    assert case.name not in report.rows_table(found)
    assert case.suite in gpu._suites("engine_", "eval_")
