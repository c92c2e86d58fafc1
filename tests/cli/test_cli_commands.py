"""Help, doctor, train, eval and data: what reaches the library, what reaches the two streams, exit
status.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

COMMANDS = [
    ["doctor"],
    ["embed"],
    ["search"],
    ["train", "sft"],
    ["train", "rl"],
    ["eval", "mmeb"],
    ["eval", "report"],
    ["data", "mini"],
    ["data", "check"],
    ["profile"],
]


def write_benchmark(root: Path) -> Path:
    """One task: a picture against three texts."""
    root.mkdir()
    for number in range(3):
        Image.new("RGB", (28, 28), (number, 0, 0)).save(root / f"{number}.png")
    texts = ["zero", "one", "two"]
    rows = [
        {
            "qry_inst": "<|image_1|> Name it.",
            "qry_text": "",
            "qry_img_path": f"{number}.png",
            "tgt_text": texts[number:] + texts[:number],
        }
        for number in range(3)
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entry = {
        "dataset_parser": "image_cls",
        "eval_type": "local",
        "image_root": ".",
        "data_path": "rows.jsonl",
    }
    (root / "image.yaml").write_text(json.dumps({"digits": entry}))
    return root


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(run, command):
    result = run(*command, "--help")
    assert result.status == 0
    assert "Examples:" in result.out
    assert f"umer1 {' '.join(command)}" in result.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_json(run, command):
    assert "--json" in run(*command, "--help").out


def test_help_is_fast_and_loads_nothing_heavy():
    code = (
        "import sys; from umer1.cli import main; main(['--help']);"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    # about 0.2 s alone; the limit leaves room for a loaded machine
    assert time.perf_counter() - started < 3


def test_version_and_wrong_usage(run):
    assert run("--version").out.startswith("umer1 ")
    assert run("embed", "--no-such-option").status == 2
    assert run("nonsense").status == 2


def test_unexpected_errors_keep_their_traceback(run, embedder, monkeypatch):
    def broken(*args, **options):
        raise KeyError("a defect")

    monkeypatch.setattr(embedder, "encode", broken)
    with pytest.raises(KeyError):
        run("embed", "a")


def test_doctor_json_says_what_works_and_why_not(run, monkeypatch):
    monkeypatch.setattr("umer1.cli.diagnosis._bundled_model", lambda problems: {"tiny": "works"})
    result = run("doctor", "--json")
    found = json.loads(result.out)
    assert result.status == (1 if found["problems"] else 0)
    assert set(found) == {
        "versions",
        "machine",
        "gpu",
        "kernels",
        "training",
        "optional_packages",
        "bundled_model",
        "problems",
    }
    assert found["versions"]["torch"]
    assert found["machine"]["cores"] >= 1
    assert found["training"]["packing planner"].startswith(("compiled: ", "numpy: "))


def test_doctor_fails_when_something_needed_is_broken(run, monkeypatch):
    monkeypatch.setattr("umer1.cli.diagnosis.CORE", ("torch", "no-such-package"))
    monkeypatch.setattr("umer1.cli.diagnosis._bundled_model", lambda problems: {})
    monkeypatch.setattr("umer1.cli.diagnosis._kernels", lambda problems: {})
    result = run("doctor")
    assert result.status == 1
    assert "problem: no-such-package is not installed" in result.out


@pytest.fixture
def trained(monkeypatch):
    """Replaces both trainers; holds the configuration of each call."""
    from umer1.training import rl, sft

    seen = {}
    for name, module in (("sft", sft), ("rl", rl)):

        def run(config, *, progress, name=name):
            print("step 1 loss 2.0")
            seen[name] = (config, progress)
            return Path("runs/done")

        monkeypatch.setattr(module, "run", run)
    return seen


def test_train_reads_the_file_and_the_settings_over_it(run, trained, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("steps: 10\noutput: runs/x\n")
    arguments = ["--set", "steps=20", "-s", "optimizer.learning_rate=1e-4", "--quiet"]
    result = run("train", "sft", "--config", path, *arguments)
    assert result.status == 0
    config, progress = trained["sft"]
    assert (config.steps, config.output, progress) == (20, "runs/x", False)
    assert config.optimizer.learning_rate == 1e-4


def test_train_json_keeps_stdout_for_the_document(run, trained, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("generations: 4\n")
    result = run("train", "rl", "--config", path, "--json")
    assert json.loads(result.out) == {"stage": "rl", "config": str(path), "model": "runs/done"}
    assert "step 1 loss" in result.err
    assert trained["rl"][0].generations == 4


def test_train_knows_the_recipes_of_the_package(run, trained):
    assert run("train", "sft", "--config", "tiny-sft").status == 0
    assert trained["sft"][0].batch_size == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "nothing"], "no such file, and no such recipe (there are "),
        (["-c", "tiny-sft", "-s", "steps"], "--set steps: need key=value"),
        (["-c", "tiny-sft", "-s", "stepz=1"], "unknown setting 'stepz'"),
        (["-c", "tiny-sft", "-s", "steps=[1"], "is not a value"),
    ],
)
def test_train_refuses_bad_settings(run, trained, arguments, message):
    result = run("train", "sft", *arguments)
    assert (result.status, trained) == (1, {})
    assert message in result.err


def test_eval_then_report(run, embedder, tmp_path):
    bench, out = write_benchmark(tmp_path / "bench"), tmp_path / "out"
    arguments = ["eval", "mmeb", bench, "-o", out, "-n", 2, "--plot", tmp_path / "plot.png"]
    result = run(*arguments)
    assert result.status == 0, result.err
    assert "digits" in result.out
    assert (out / "digits_gen_gen_score.json").is_file()
    assert Image.open(tmp_path / "plot.png").size[0] > 500
    again = run("eval", "report", out, "--json")
    content = json.loads(again.out)
    assert content["settings"]["model"] == "tiny@0"
    assert list(content["tasks"]["digits"]["main"]) == ["disc", "gen", "oracle"]
    assert list(content["tasks"]["digits"]["pass_at_k"]) == ["1", "2"]


def test_eval_json_is_one_document(run, embedder, tmp_path):
    bench = write_benchmark(tmp_path / "bench")
    result = run("eval", "mmeb", bench, "-o", tmp_path / "out", "--modes", "disc", "--json")
    assert json.loads(result.out)["tasks"]["digits"]["queries"] == 3
    assert "a library prints" in result.err


def test_eval_counts_missing_media_before_the_model_is_loaded(run, tmp_path, monkeypatch):
    bench = write_benchmark(tmp_path / "bench")
    (bench / "1.png").unlink()

    def refuse(*arguments):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("umer1.cli.models.load_embedder", refuse)
    result = run("eval", "mmeb", bench, "-o", tmp_path / "out")
    assert result.status == 1
    assert "digits: 1 of 3 missing" in result.err


def test_eval_check_says_what_is_missing_and_runs_nothing(run, embedder, tmp_path):
    bench = write_benchmark(tmp_path / "bench")
    arguments = ["eval", "mmeb", bench, "-o", tmp_path / "out", "--check"]
    assert run(*arguments).status == 0
    (bench / "1.png").unlink()
    result = run(*arguments)
    assert result.status == 1
    assert "digits" in result.out and "1.png" in result.out
    assert embedder.calls == [] and not (tmp_path / "out").exists()


def test_data_check(run, tmp_path):
    bench = write_benchmark(tmp_path / "bench")
    assert run("data", "check", bench).out.endswith("1 tasks, all media are there\n")
    (bench / "1.png").unlink()
    result = run("data", "check", bench, "--json")
    content = json.loads(result.out)
    assert (result.status, content["missing"]) == (1, 1)
    assert content["tasks"][0]["example"].endswith("1.png")


@pytest.mark.parametrize("scale", ["inf", "nan", "0", "-1"])
def test_data_mini_names_the_scale_that_it_cannot_use(run, tmp_path, scale):
    result = run("data", "mini", "-o", tmp_path / "mini", "--scale", scale)
    assert result.status != 0
    assert "--scale: got" in result.err and "wants a finite number above 0" in result.err
    assert "Traceback" not in result.err


def test_data_mini_calls_the_builder(run, monkeypatch, tmp_path):
    seen = {}

    def build(out, *, seed, scale, progress):
        print("building")
        seen.update(out=out, seed=seed, scale=scale, progress=progress)
        return out

    monkeypatch.setattr("umer1.data.mini.build", build, raising=False)
    out = tmp_path / "mini"
    result = run("data", "mini", "-o", out, "--seed", 3, "--scale", 0.5, "-q", "--json")
    assert seen == {"out": out, "seed": 3, "scale": 0.5, "progress": False}
    assert json.loads(result.out) == {"out": str(out), "seed": 3, "scale": 0.5}
