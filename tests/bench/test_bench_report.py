"""Tables of docs/performance.md: written from rows, every aim about a case that exists."""

import json
import sys

import pytest

from bench import __main__ as command
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


def test_an_aim_may_be_that_of_one_of_our_variants():
    case, place = "n16-g8-d1536-fp32", {"suite": "group_reward", "device": "cuda"}
    rows = [
        _row(case, **place, speedup={"released-loop": 40.0}),
        _row(case, "umer1-cuda", **place, speedup={"released-loop": 60.0}),
        _row(case, "umer1-cuda-graph", **place, speedup={"vectorised-graph": 4.0}),
        _row("slots256-h1536-bf16", "umer1-cuda-graph", suite="gather_hidden", device="cuda", median_ms=0.0025),
    ]  # fmt: skip
    native = [v for v in verdicts(rows, "cuda") if v.claim.variant.startswith("umer1-cuda")]
    found = [(v.measured, v.claim.met(v.measured)) for v in native if v.measured is not None]
    assert found == [(60.0, True), (4.0, False), (0.0025, True)]
    text = report.claims_table(report.Found("cuda", rows, []))
    assert (
        f"| group_reward {case} (umer1-cuda) | times faster than the released loop | ≥ 50 | 60 | yes |"
        in text
    )


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


def page_of(tmp_path, *blocks):
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- begin: {name} -->\n<!-- end: {name} -->\n" for name in blocks))
    return page


def test_plots_stand_beside_the_page(tmp_path):
    file, page = tmp_path / "cpu.json", page_of(tmp_path, "plots-cpu", "plots-cuda")
    file.write_text(json.dumps({"rows": ROWS}))
    assert report.main([str(file), "--page", str(page)]) == 0
    assert "![percent of the matrix products' own speed" in page.read_text()
    assert "](images/floor-cpu.png)" in page.read_text() and "No plot yet." in page.read_text()
    picture = tmp_path / "images" / "floor-cpu.png"
    assert picture.stat().st_size < 150_000
    assert report.main([str(file), "--check", "--page", str(page)]) == 0
    picture.unlink()
    assert report.main([str(file), "--check", "--page", str(page)]) == 1


def test_without_matplotlib_the_tables_are_written(tmp_path, monkeypatch, capsys):
    file, page = tmp_path / "cpu.json", page_of(tmp_path, "plots-cpu", "claims-cpu")
    file.write_text(json.dumps({"rows": ROWS}))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(file), "--page", str(page)]) == 0
    assert "matplotlib is not installed: the plots are left" in capsys.readouterr().err
    assert "| info_nce one-way-4096-bf16 | % of floor |" in page.read_text()


def test_what_the_gpu_suite_did_and_how_many_aims_are_met(tmp_path):
    steps = [{"step": "build", "status": "ok", "seconds": 41.2, "detail": "built"}]
    on_gpu = {**ROWS[0], "device": "cuda", "hardware": "a GPU", "case": "one-way-16384-bf16"}
    files = {"cpu": {"rows": ROWS}, "gpu": {"rows": [on_gpu], "steps": steps}}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    page = "".join(
        f"<!-- begin: {name} -->\n<!-- end: {name} -->\n"
        for name in ("steps-cuda", "state-cpu", "state-cuda")
    )
    text = report.render(page, sorted(tmp_path.glob("*.json")))
    assert "| build | ok | 41 | built |" in text
    cpu, cuda = (len([claim for claim in CLAIMS if claim.device == d]) for d in ("cpu", "cuda"))
    # floor, peer, memory, error of one case; its time is 1.2 times the best peer's
    assert f"CPU (a CPU): 4 of {cpu} aims are measured, 3 of them met." in text
    assert f"GPU (a GPU): 2 of {cuda} aims are measured, 2 of them met." in text
    nothing = report.render(page, [])
    assert "Nothing has been measured on a GPU yet." in nothing
    assert "Not measured yet: `make gpu`." in nothing


def test_report_is_a_subcommand(tmp_path, capsys):
    page = page_of(tmp_path, "rows-tpu")
    assert command.main(["report", "--page", str(page)]) == 2
    assert "python -m bench report: block 'rows-tpu'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["report", "--help"])
    assert "usage: python -m bench report" in capsys.readouterr().out


def test_blocks_of_other_commands_are_left(tmp_path):
    text = "<!-- begin: serving-load -->\nfigures\n<!-- end: serving-load -->\n"
    assert report.render(text, []) == text


def test_an_unknown_block_or_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="rows-tpu.*the page may have claims-cpu"):
        report.render("<!-- begin: rows-tpu -->\n<!-- end: rows-tpu -->", [])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a result file"):
        report.render("", [tmp_path / "x.json"])


def test_the_page_holds_what_the_result_files_say():
    assert report.main(["--check"]) == 0, "python -m bench report"
