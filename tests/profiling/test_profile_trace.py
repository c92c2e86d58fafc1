"""From a run to rows: own times, stages, what counts; and percent of the roofline by arithmetic."""

import time
from pathlib import Path

import pytest
import torch

from umer1.profiling.costs import Argument, Cost
from umer1.profiling.profile import make_rows, operation_costs
from umer1.profiling.ranges import stage
from umer1.profiling.roofs import Roofs, measure
from umer1.profiling.trace import Operation, Trace, record
from umer1.profiling.workload import Workload

CPU = torch.device("cpu")
ROOFS = Roofs(bandwidth=1e9, flop_rate={"float32": 1e11}, how="")
LEFT, RIGHT = torch.randn(64, 32), torch.randn(32, 48)


def rows_of(run, begins=""):
    trace = record(Workload(run, torch.float32, begins=begins), CPU)
    rows = make_rows(trace, operation_costs(trace.operations), ROOFS)
    return trace, {(row.operator, row.stage): row for row in rows}


def nested():
    with stage("products"):
        LEFT @ RIGHT
        LEFT @ RIGHT
    with stage("outer"):
        LEFT.sum()
        with stage("inner"):
            LEFT.exp()


def test_rows_are_of_one_call_and_know_their_stage():
    trace, rows = rows_of(nested)
    product = rows["aten::mm", "products"]
    assert product.calls == 2 and product.flop == 2 * 2 * 64 * 32 * 48
    assert product.bytes == 2 * 4 * (64 * 32 + 32 * 48 + 64 * 48)
    assert product.shapes == ["64x32 32x48"]
    assert ("aten::sum", "outer") in rows and ("aten::exp", "inner") in rows
    assert set(trace.stages) == {"call", "products", "outer", "inner"}


def test_own_times_add_up_to_less_than_the_call():
    trace, rows = rows_of(nested)
    own = sum(row.seconds for row in rows.values())
    assert 0 < own <= trace.traced_seconds * 1.5
    assert all(nanoseconds >= 0 for nanoseconds in trace.stages.values())
    # matmul calls mm: its own time is what it takes beside it
    assert rows["aten::matmul", "products"].seconds < rows["aten::mm", "products"].seconds * 5


def test_work_belongs_to_the_operator_that_does_it():
    _, rows = rows_of(lambda: LEFT.to(torch.float64))
    assert rows["aten::copy_", "other"].bytes == LEFT.numel() * (4 + 8)
    assert not any(row.bytes for (name, _), row in rows.items() if name != "aten::copy_")


def test_nothing_counts_before_the_stage_a_workload_begins_with():
    def run():
        with stage("engine"):
            with stage("prefill"):
                LEFT @ RIGHT
            with stage("decode"):
                LEFT.exp()
            LEFT.sum()

    trace, rows = rows_of(run, begins="decode")
    assert ("aten::exp", "decode") in rows and ("aten::sum", "engine") in rows
    assert not any(name == "aten::mm" for name, _ in rows)
    assert set(trace.stages) == {"call", "engine", "decode"}


def test_only_the_part_that_counts_is_timed():
    def run():
        with stage("prefill"):
            time.sleep(0.02)
        with stage("decode"):
            time.sleep(0.01)

    whole, part = (record(Workload(run, torch.float32, begins=name), CPU) for name in ("", "decode"))  # fmt: skip
    assert 0.03 <= whole.seconds and 0.03 <= whole.traced_seconds
    assert 0.01 <= part.traced_seconds < whole.traced_seconds - 0.015
    assert part.seconds < whole.seconds - 0.01


def test_the_chrome_trace_shows_the_stages(tmp_path):
    path = tmp_path / "deep" / "trace.json"
    record(Workload(nested, torch.float32), CPU, path)
    assert '"stage: inner"' in Path(path).read_text()


def made(name, nanoseconds, cost=None, parent=-1, arguments=()):
    return Operation(name, "call", nanoseconds, arguments, (), parent, {}, cost)


def test_percent_of_roofline():
    operations = [
        # 1e9 FLOPs at 1e11 per second: 10 ms; 1e6 bytes at 1e9: 1 ms
        made("a", 20_000_000, Cost(1e9, 1e6, "float32")),
        made("a", 20_000_000, Cost(1e9, 1e6, "float32")),
        # 4 ms of memory in 5 ms
        made("b", 5_000_000, Cost(1e6, 4e6)),
        made("c", 1_000_000),
    ]
    trace = Trace(operations, {}, 0.05, 0.05)
    a, b, c = make_rows(trace, operation_costs(operations), ROOFS)
    assert (a.operator, a.calls, a.seconds, a.flop) == ("a", 2, 0.04, 2e9)
    assert a.floor == pytest.approx(0.02) and a.percent_of_roofline == pytest.approx(50)
    assert a.bound == "compute" and b.bound == "memory"
    assert b.percent_of_roofline == pytest.approx(80)
    assert c.percent_of_roofline is None and c.bound == ""


def test_calls_of_one_name_in_one_stage_are_one_row():
    operations = [made("a", 1_000_000, Cost(3e6, 3e6))] * 6
    [row] = make_rows(Trace(operations, {}, 0.0, 0.0), operation_costs(operations), ROOFS)
    assert (row.calls, row.flop) == (6, 18e6) and row.seconds == pytest.approx(0.006)


def test_the_fastest_call_is_the_one_that_counts():
    naps = iter([0.0] * 7 + [0.02, 0.02, 0.0, 0.02, 0.02])  # warm-up, timed, traced

    def run():
        nap = next(naps)
        time.sleep(nap)
        if not nap:
            LEFT.exp()
        LEFT.sum()

    trace, rows = rows_of(run)
    assert trace.traced_seconds < 0.02
    assert rows["aten::exp", "other"].calls == 1


def test_an_operator_of_aten_leaves_its_cost_to_those_it_calls():
    square = Argument((4, 4), 4, "float32")
    operations = [
        made("aten::mean", 5, arguments=(square,)),
        made("aten::sum", 5, parent=0, arguments=(square,)),
        made("umer1_kernels::row_pools", 5, arguments=(square,)),
        made("aten::fill_", 5, parent=2, arguments=(square,)),
        made("aten::mm", 5, arguments=(square, square)),
        made("aten::sum", 5, parent=4, arguments=(square,) * 40),
        made("aten::bmm", 5, arguments=(square, square)),
        made("aten::mm", 5, parent=6, arguments=(square, square)),
    ]
    operations += [
        # what prepares the output is not the work
        made("aten::sum", 5, arguments=(square,)),
        made("aten::fill_", 5, parent=8, arguments=(Argument((4,), 4),)),
    ]
    found = operation_costs(operations)
    assert (found[8].bytes, found[9].bytes) == (64, 16)
    assert found[4].flop == found[7].flop == 2 * 4**3 and found[6] == Cost(0, 0)
    assert found[0] == Cost(0, 0) and found[1].bytes == 64
    assert found[2].bytes == found[3].bytes == 64  # ours count without what they call


def test_a_row_with_an_unknown_call_has_no_model():
    operations = [made("a", 10, Cost(1, 1)), made("a", 10)]
    [row] = make_rows(Trace(operations, {}, 0.0, 0.0), operation_costs(operations), ROOFS)
    assert row.flop is None and row.percent_of_roofline is None


def test_roofs_are_measured_in_the_dtypes_asked_for(monkeypatch):
    monkeypatch.setattr("umer1.profiling.roofs.PRODUCT_SIZE", {"cpu": 256})
    monkeypatch.setattr("umer1.profiling.roofs.COPY_BYTES", {"cpu": 2**22})
    found = measure(CPU, {"float32", "bfloat16", "bool"})
    assert set(found.flop_rate) == {"float32", "bfloat16"}
    assert found.flop_rate["float32"] > 1e8 and found.bandwidth > 1e8
    assert found.floor(1.0, 0.0, "float32")[1] == "compute"
    assert found.floor(1.0, 0.0, "")[0] == 0.0  # work without a product has no compute roof
