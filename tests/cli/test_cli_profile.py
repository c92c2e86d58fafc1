"""`umer1 profile`: tables, JSON, trace, plot, the command for ncu, and one line for wrong input."""

import json

import pytest
import torch
from PIL import Image

SMALL = ["--shape", "N=64,D=32"]


@pytest.fixture(autouse=True)
def _quick_roofs(monkeypatch):
    monkeypatch.setattr("umer1.profiling.roofs.PRODUCT_SIZE", {"cpu": 128})
    monkeypatch.setattr("umer1.profiling.roofs.COPY_BYTES", {"cpu": 2**20})


def test_tables_and_files(run, tmp_path):
    files = {name: tmp_path / "new" / f"p.{name}" for name in ("json", "trace", "png")}
    options = ["--json", files["json"], "--trace", files["trace"], "--plot", files["png"]]
    result = run("profile", "loss", *SMALL, *options)
    assert result.status == 0, result.err
    for text in ("info_nce", "forward", "backward", "aten::", "% roof", "roofs measured here"):
        assert text in result.out
    assert Image.open(files["png"]).size[0] > 500
    assert "traceEvents" in files["trace"].read_text()
    content = json.loads(files["json"].read_text())
    assert content["shape"] == {"N": 64, "D": 32, "directions": 2}
    assert content["command"] == (
        "umer1 profile loss --shape N=64,D=32,directions=2,dtype=bfloat16 --device cpu "
        "--loss info_nce --backend auto"
    )
    for path in files.values():
        assert f"wrote {path}" in result.err


def test_json_alone_on_stdout_adds_up(run):
    content = json.loads(run("profile", "loss", *SMALL, "--json", "-").out)
    rows = content["rows"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert sum(row["ms"] for row in rows) == pytest.approx(content["operators_ms"])
    assert content["ms"] > 0 and content["roofs"]["gb_per_s"] > 0
    for row in rows:
        if row["flop"]:
            assert row["gflop_per_s"] == pytest.approx(row["flop"] / row["ms"] / 1e6)
            assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["ms"] / 1e6)
            roofs, limits = content["roofs"], [row["bytes"] / content["roofs"]["gb_per_s"]]
            limits += [row["flop"] / rate for rate in roofs["gflop_per_s"].values()]
            assert row["percent_of_roofline"] <= 100 * max(limits) / row["ms"] / 1e6 * 1.001
    stages = {stage["stage"] for stage in content["stages"]}
    assert stages == {"other", "forward", "backward"}


def test_a_model_by_its_directory(run):
    from umer1.embedder import BUNDLED

    arguments = ["--shape", "prompts=2,tokens=4,image=0", "--model", BUNDLED["tiny"]]
    result = run("profile", "prefill", *arguments)
    assert result.status == 0 and "1.4 million parameters" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "target train: it must be one of loss"),
        (["loss", "--shape", "N=0"], "--shape N=0: wants at least 2"),
        (["loss", "--plot", "plot.txt"], "--plot plot.txt: need a name that ends in .png or .svg"),
        (["loss", "--ncu", "row_pools"], "--ncu row_pools: it looks at kernels on a GPU"),
        (["prefill", "--model", "/"], "/ has no config.json"),
    ],
)
def test_wrong_input_is_one_line(run, arguments, message):
    result = run("profile", *arguments)
    assert result.status == 1 and message in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_is_refused_without_a_gpu(run):
    assert "--device cuda: torch sees no CUDA device" in run("profile", "loss", "--device", "cuda").err  # fmt: skip


def test_ncu_is_printed_and_not_run_where_it_is_missing(run, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_: None)
    arguments = ["--device", "cuda", "--backend", "triton", "--ncu", "row_pools_kernel"]
    result = run("profile", "loss", *SMALL, *arguments)
    assert result.status == 0 and "ncu is not on the PATH" in result.err
    command = result.out.strip()
    assert command.startswith("ncu --profile-from-start off --kernel-name regex:row_pools_kernel")
    assert command.endswith(
        "-m umer1.profiling loss --shape N=64,D=32,directions=2,dtype=bfloat16 --device cuda "
        "--loss info_nce --backend triton"
    )


def test_ncu_runs_where_it_is(run, monkeypatch, tmp_path):
    program = tmp_path / "ncu"
    program.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/seen\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = run("profile", "loss", *SMALL, "--device", "cuda", "--ncu", "gemm")
    assert result.status == 3
    assert "--kernel-name regex:gemm --launch-count 1" in (tmp_path / "seen").read_text()


def test_the_bare_workload_runs(monkeypatch, capsys):
    """What ncu runs."""
    from umer1.profiling import __main__ as bare

    monkeypatch.setattr("sys.argv", ["bare", "loss", "--device", "cpu", *SMALL])
    bare.main()
    monkeypatch.setattr("sys.argv", ["bare", "loss", "--device", "cpu", "--shape", "N=x"])
    with pytest.raises(SystemExit):
        bare.main()
    assert "'x' is not a whole number" in capsys.readouterr().err
