"""The arithmetic of 10^9 items: by hand for round rates, and a page that says what it was given."""

import json

import numpy as np
import pytest

from bench import billions, billions_arithmetic, billions_search
from bench.billions_arithmetic import Assumptions, Rate, Search, SearchCosts, machines_for


def _row(suite, case, milliseconds, **more):
    return {"suite": suite, "case": case, "median_ms": milliseconds, "variant": "umer1", "device": "cpu",
            "hardware": "AMD EPYC", "threads": 2, "status": "ok", "sizes": {}, **more}  # fmt: skip


# a core reads 10 GB/s; a cell costs 1 µs and a code 100 ns; graphs grow by 1 ms and 1 ms per factor e
SEARCHED = [
    {"kind": "flat", "rows": 10**6, "dimension": 256, "ms": 102.4, "bytes_per_vector": 1024,
     "recall@10": 1.0, "build_seconds": 0.0},
    *({"kind": "ivfpq", "rows": 10**6, "dimension": 256, "probes": probes, "cells": 4000,
       "codes": 250 * probes, "ms": 4 + 0.025 * probes, "recall@10": 0.9, "build_seconds": 36.0,
       "training_seconds": 360.0, "bytes_per_vector": 40} for probes in (1, 32, 128)),
    *({"kind": "hnsw", "rows": int(np.exp(power)), "dimension": 256, "ms": power - 9.0,
       "build_seconds": 1e-3 * (power - 9) * int(np.exp(power)), "recall@10": 0.99,
       "bytes_per_vector": 1300} for power in (10, 11, 12)),
]  # fmt: skip


def test_rates_are_items_by_time():
    parts = [
        _row("engine_phases", f"{part}-64-2b-bf16", time)
        for part, time in (("vision", 500), ("prefill", 1500))
    ]
    other = _row("engine_phases", "vision-256-2b-bf16", 100)
    [rate] = billions_arithmetic.measured_rates([*parts, other])
    assert (rate.mode, rate.visual, rate.items_per_second) == ("disc", 64, 0.5)
    assert rate.machine_days(86_400) == 2
    assert billions_arithmetic.scaled(rate, Assumptions(cores_embed=8)).items_per_second == 2


def test_a_measured_gpu_takes_the_place_of_what_was_calculated():
    sizes = {"model": "2b", "embeddings": 64, "samples": 1, "kinds": "image-256", "prompts": 64}
    rows = [
        _row(
            "engine_generate",
            "queries-64-2b-image-256-bf16",
            320,
            device="cuda",
            hardware="NVIDIA H200",
            sizes=sizes,
        ),
        _row("engine_generate", "rollouts", 320, device="cuda", sizes=sizes | {"samples": 8}),
    ]
    assert billions_arithmetic.measured_rates(rows) == [
        Rate("gen", 256, "NVIDIA H200", 200.0, "engine_generate")
    ]


def test_bounds_of_a_gpu_fall_with_the_picture_and_rise_with_what_is_reached():
    rates = {
        (each.mode, each.visual): each
        for each in billions_arithmetic.calculated_rates(Assumptions())
    }
    half = {
        (each.mode, each.visual): each
        for each in billions_arithmetic.calculated_rates(Assumptions(share=0.25))
    }
    for key, rate in rates.items():
        assert rate.items_per_second == pytest.approx(2 * half[key].items_per_second)
    # tower and prefill of 64 visual tokens: 0.59 TFLOP, by hand from the shape's matrices
    assert rates["disc", 64].items_per_second == pytest.approx(0.5 * 790 / 0.59, rel=0.05)
    assert rates["gen", 256].items_per_second < rates["disc", 256].items_per_second
    assert rates["disc", 256].items_per_second < rates["disc", 64].items_per_second / 3


def test_search_costs_follow_their_units():
    costs = SearchCosts(SEARCHED)
    assert costs.flat_bytes_per_second == pytest.approx(1e10)
    assert costs.code_ms == pytest.approx(1e-4) and costs.cell_ms == pytest.approx(1e-3)
    flat = costs.flat_at(1e9, 256)
    assert flat.core_ms == pytest.approx(102_400) and flat.bytes_per_item == 1024
    assert costs.flat_at(1e9, 512, 2).core_ms == pytest.approx(102_400)
    # 126,491 cells; 32 probes see 32 / 126,491 of 10^9 codes, 2 of every 1 as cells are uneven (250 of 125)
    cells = costs.cells_at(1e9, 256, 32)
    assert cells.core_ms == pytest.approx(126.491 + 32 / 126_491 * 1e9 * 1e-4, rel=1e-4)
    grown = 126_491 / 4000
    hours = (360 * grown**2 + 36e-6 * grown * 1e9) / 3600
    assert cells.build_core_hours == pytest.approx(hours, rel=1e-4) and cells.bytes_per_item == 40
    graph = costs.graph_at(np.exp(20), 256)
    assert graph.core_ms == pytest.approx(11, rel=1e-3) and graph.bytes_per_item == 1300
    assert graph.build_core_hours == pytest.approx(11e-3 * np.exp(20) / 3600, rel=1e-3)
    assert costs.graph_at(np.exp(20), 512).bytes_per_item == 1300 + 1024


def test_machines_hold_the_index_and_answer():
    assumed = Assumptions(items=1e9, memory_gb=100, cores=10, queries=50, memory_bandwidth=1e11)
    assert machines_for(Search("HNSW", 256, 1300, 1000.0, 0), assumed) == (13, 5)
    # exact search reads everything: 1.024 TB at 100 GB/s, 50 times a second
    assert machines_for(Search("flat, float32", 256, 1024, 1000.0, 0), assumed) == (11, 512)


def test_the_page_names_every_assumption_and_is_checked(tmp_path, capsys):
    search, page = tmp_path / "search.json", tmp_path / "page.md"
    about = {"cpu": "some CPU", "python": "3.11", "commit": "0123456789abcdef"}
    search.write_text(
        json.dumps({"command": "the command", "environment": about, "rows": SEARCHED})
    )
    given = ["--search", str(search), "--page", str(page)]
    assert billions.main([*given, "--check"]) == 1
    assert billions.main(given) == 0
    text = page.read_text()
    for name in Assumptions.__dataclass_fields__:
        assert f"| `--{name.replace('_', '-')}` |" in text
    assert "some CPU" in text and "the command" in text and "{" not in text
    assert billions.main([*given, "--check"]) == 0
    assert billions.main([*given, "--check", "--items", "1e8"]) == 1
    nothing = tmp_path / "nothing.json"
    nothing.write_text('{"rows": []}')
    assert billions.main([*given, str(nothing)]) == 2
    assert "no rates at the 2B shape" in capsys.readouterr().err


def test_search_is_measured_by_type_and_size(tmp_path):
    pytest.importorskip("faiss")
    path = tmp_path / "search.json"
    billions_search.main(
        ["--rows", "3000", "--hnsw-rows", "1000", "--dimension", "32", "--json", str(path)]
    )
    rows = json.loads(path.read_text())["rows"]
    kinds = [(row["kind"], row["rows"], row.get("probes")) for row in rows]
    assert kinds == [("hnsw", 1000, None), ("flat", 3000, None), *(("ivfpq", 3000, n) for n in (1, 8, 32, 128))]  # fmt: skip
    by_probes = {row["probes"]: row for row in rows if row["kind"] == "ivfpq"}
    # 219 cells: many probes see more than half of all codes, few see few
    assert by_probes[128]["codes"] > 1500 > 100 > by_probes[1]["codes"] > 5
    assert by_probes[128]["recall@10"] > 0.8 > by_probes[1]["recall@10"]
    assert rows[0]["recall@10"] > 0.95 and rows[1]["recall@10"] == 1
    assert all(row["ms"] > 0 and row["bytes_per_vector"] > 0 for row in rows)
    assert by_probes[1]["bytes_per_vector"] == 4 + 8 and rows[1]["bytes_per_vector"] == 128
