"""Building: deterministic, all or nothing, careful with what is already there."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from umer1.data.mini import TASKS, Counts, build, builder
from umer1.data.mini.builder import task_counts
from umer1.data.mini.task import Example, Part
from umer1.data.mini.write_train import TrainingSet


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_same_seed_same_bytes_other_seed_same_split(mini, tmp_path):
    """The second build runs in a process of its own, where strings and sets hash differently."""
    counts = json.loads((mini.root / "build.json").read_text())["counts"]
    code = (
        "from umer1.data.mini import Counts, build; "
        f"build({str(tmp_path / 'again')!r}, seed=5, counts=Counts(**{counts}), progress=False)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    first, again = tree(mini.root), tree(tmp_path / "again")
    assert sorted(first) == sorted(again)
    assert [name for name in first if first[name] != again[name]] == []
    few = Counts(multi_step=4, one_look=4, rl=2, evaluation=8)
    other = tree(build(tmp_path / "other", seed=6, counts=few, progress=False))
    assert other["sources.json"] == first["sources.json"]
    pictures = [name for name in first if name.endswith("_qry.png") and name in other]
    assert len(pictures) > 30
    assert [name for name in pictures if first[name] == other[name]] == []


@pytest.fixture
def quick(monkeypatch):
    """Builds that write one file and count themselves."""
    done = []

    def write(root, record, progress):
        root.mkdir()
        (root / builder.RECORD).write_text(json.dumps(record))
        (root / "content").write_text(str(record["seed"]))
        done.append(record["seed"])

    monkeypatch.setattr(builder, "_build", write)
    return done


def test_a_finished_benchmark_is_kept_and_another_one_replaces_it(quick, tmp_path):
    out = tmp_path / "deep" / "mini"
    assert build(out, seed=1, progress=False) == out
    assert build(str(out), seed=1, progress=False) == out
    assert quick == [1]
    build(out, seed=1, scale=0.5, progress=False)
    build(out, seed=1, scale=0.5, counts=Counts(rl=5), progress=False)
    build(out, seed=2, scale=0.5, counts=Counts(rl=5), progress=False)
    assert quick == [1, 1, 1, 2]
    assert (out / "content").read_text() == "2"
    assert sorted(path.name for path in out.parent.iterdir()) == [".mini.lock", "mini"]


def test_a_new_version_or_package_rebuilds(quick, tmp_path, monkeypatch):
    build(tmp_path / "mini", progress=False)
    monkeypatch.setattr(builder, "VERSION", builder.VERSION + 1)
    build(tmp_path / "mini", progress=False)
    monkeypatch.setattr(builder, "_version", lambda package: "99")
    build(tmp_path / "mini", progress=False)
    assert len(quick) == 3


def test_foreign_directories_and_files_are_refused(quick, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(ValueError, match="exists and is not a miniature benchmark"):
            build(tmp_path / name, progress=False)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "x"
    assert quick == []
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty", progress=False)
    assert quick == [0]


def test_a_failing_build_leaves_the_old_one_and_nothing_else(quick, tmp_path, monkeypatch):
    out = tmp_path / "mini"
    build(out, seed=1, progress=False)

    def fail(root, record, progress):
        root.mkdir()
        (root / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "_build", fail)
    with pytest.raises(KeyboardInterrupt):
        build(out, seed=2, progress=False)
    assert (out / "content").read_text() == "1"
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "new", seed=2, progress=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".mini.lock", ".new.lock", "mini"]


def test_what_a_killed_build_left_is_cleared(quick, tmp_path):
    (tmp_path / ".mini.partial" / "train").mkdir(parents=True)
    (tmp_path / ".mini.partial" / "train" / "half").write_text("x")
    build(tmp_path / "mini", progress=False)
    assert sorted(path.name for path in (tmp_path / "mini").iterdir()) == ["build.json", "content"]
    assert not (tmp_path / ".mini.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: wants a whole number >= 0, got -1"),
        ({"seed": 1.5}, "seed: wants a whole number"),
        ({"scale": 0}, "scale: wants a finite number > 0, got 0"),
        ({"scale": float("inf")}, "scale: wants a finite number > 0, got inf"),
        ({"scale": float("nan")}, "scale: wants a finite number > 0, got nan"),
        ({"counts": Counts(rl=0)}, "counts: rl wants a whole number >= 1, got 0"),
        ({"counts": Counts(sft={"digit_sum": -2})}, "counts: digit_sum wants"),
        ({"counts": Counts(sft={"digit_sums": 2})}, r"counts.sft: unknown tasks \['digit_sums'\]"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "mini", progress=False, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_counts_per_task():
    tasks = {task.name: task for task in TASKS}
    counts = Counts(sft={"page_total": 2000})
    full = {name: task_counts(task, 1.0, counts) for name, task in tasks.items()}
    assert full["digit_sum"] == {"sft": 1600, "rl": 300, "evaluation": 100}
    assert full["digit_class"] == {"sft": 1200, "rl": 300, "evaluation": 100}
    assert full["page_total"]["sft"] == 2000
    assert full["page_number"]["evaluation"] == 90
    third = task_counts(tasks["page_total"], 0.3, counts)
    assert third == {"sft": 600, "rl": 90, "evaluation": 40}
    assert task_counts(tasks["digit_sum"], 0.7, counts)["evaluation"] == 70
    assert task_counts(tasks["digit_sum"], 3.0, counts)["evaluation"] == 100
    assert task_counts(tasks["digit_sum"], 0.1, Counts(evaluation=20))["evaluation"] == 20


@pytest.mark.parametrize(("stage", "size"), [("sft", 64), ("rl", 8)])
def test_sources_are_interleaved_in_chunks(tmp_path, stage, size):
    collected = TrainingSet(tmp_path, stage)
    for task in TASKS[:4]:
        for index in range(2 * size + 1):
            collected.add(task, index, Example(Part(f"q{index}"), Part("t"), f"{index}"))
    rows, truths = collected.ordered(np.random.default_rng(0))
    names = [row["dataset_name"] for row in rows]
    assert names == [truth["task"] for truth in truths]
    assert Counter(names) == {task.name: 2 * size + 1 for task in TASKS[:4]}
    # neighbouring chunks may be of one source, so cut by the examples' own numbers
    numbers = [int(truth["answer"]) for truth in truths]
    chunks = [
        list(chunk)
        for _, chunk in groupby(range(len(rows)), key=lambda n: (names[n], numbers[n] // size))
    ]
    assert sorted(len(chunk) for chunk in chunks) == [1] * 4 + [size] * 8
    assert names != sorted(names)
    rows_again, _ = collected.ordered(np.random.default_rng(0))
    assert rows_again == rows
