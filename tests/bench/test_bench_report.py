"""Tables of docs/performance.md: written from rows, every aim about a case that exists."""

import json

import pytest

from bench import report
from bench.case import OURS
from bench.claims import CLAIMS, verdicts
from bench.engine import composed
from bench.suites import cases


def _row(case, variant=OURS, **figures):
    return {
        "suite": "info_nce", "case": case, "device": "cpu", "variant": variant, "status": "ok", "hardware": "a CPU",
        "threads": 2, "torch": "2.15", "triton": "3.9", "commit": "abc", "dtype": "bfloat16",
        "sizes": {"N": 4096, "directions": 1}, "errors": {"output": 1e-6, "query": 2.5e-3, "target": 2.4e-3},
        "median_ms": 400.0, "p20_ms": 390.0, "p80_ms": 410.0, "peak_bytes": 50 * 2**20, **figures,
    }  # fmt: skip


ROWS = [
    _row("one-way-4096-bf16", percent_of_floor=90.0, time_to_best_peer=1.2, peak_to_baseline=0.4),
    _row("one-way-4096-bf16", "eager", percent_of_floor=70.0, time_to_best_peer=1.0),
    _row("symmetric-4096-bf16", status="failed: RuntimeError: no"),
]


def test_every_aim_is_about_a_case_that_is_measured():
    for device in ("cpu", "cuda"):
        known = {(case.suite, case.name) for case in cases(device)}
        known |= {(composed.SUITE, composed.case_name(name, visual))
                  for name in composed.WORKLOADS for visual in composed.VISUAL}  # fmt: skip
        assert {(c.suite, c.case) for c in CLAIMS if c.device == device} <= known


def test_verdicts_say_what_is_met_missed_and_missing():
    found = {(v.claim.case, v.claim.what): v for v in verdicts(ROWS, "cpu")}
    floor = found["one-way-4096-bf16", "% of floor"]
    assert floor.measured == 90.0 and floor.claim.met(90.0) and not floor.claim.met(84.9)
    peer = found["one-way-4096-bf16", "time / best peer"]
    assert not peer.claim.met(peer.measured)
    error = found["one-way-4096-bf16", "relative gradient error"]
    assert error.measured == 2.5e-3 and error.claim.met(2.5e-3)
    assert found["symmetric-4096-bf16", "% of floor"].reason == "failed: RuntimeError: no"
    assert found["one-way-32768-bf16", "peak memory / eager's"].reason == "not measured yet"


def test_blocks_are_filled_and_the_rest_is_left(tmp_path):
    file, page = tmp_path / "cpu.json", tmp_path / "page.md"
    file.write_text(json.dumps({"rows": ROWS}))
    page.write_text(
        "before\n<!-- begin: claims-cpu -->\nold\n<!-- end: claims-cpu -->\nbetween\n"
        "<!-- begin: rows-cpu -->\n<!-- end: rows-cpu -->\n"
        "<!-- begin: errors-cpu -->\n<!-- end: errors-cpu -->\nafter\n"
    )
    assert report.main([str(file), "--check", "--page", str(page)]) == 1
    assert report.main([str(file), "--page", str(page)]) == 0
    assert report.main([str(file), "--check", "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| info_nce one-way-4096-bf16 | % of floor | ≥ 85 | 90 | yes |" in text
    assert "| info_nce one-way-4096-bf16 | time / best peer | ≤ 1.1 | 1.2 | **no** |" in text
    assert "| info_nce one-way-4096-bf16 | 2.5e-03 | 2.5e-03 | – |" in text
    assert "Measured on a CPU, 2 threads, torch 2.15" in text and "query 2.5e-03" in text


def test_an_unknown_block_or_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="rows-tpu.*the page may have claims-cpu"):
        report.render("<!-- begin: rows-tpu -->\n<!-- end: rows-tpu -->", [])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a result file"):
        report.render("", [tmp_path / "x.json"])


def test_the_page_holds_what_the_result_files_say():
    assert report.main(["--check"]) == 0, "python -m bench.report"
