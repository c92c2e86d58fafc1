"""Means from published per-task scores, and the leaderboard's file there and back."""

import json
from pathlib import Path

import numpy as np
import pytest

from umer1.evaluation.benchmark import entries
from umer1.evaluation.means.benchmark_groups import benchmark_groups, counted_tasks
from umer1.evaluation.means.collect import collect_submission
from umer1.evaluation.means.submission import (
    METADATA,
    benchmark_means,
    printed_mean,
    read_submission,
    write_submission,
)
from umer1.evaluation.scores.metrics import score_queries

PUBLISHED = json.loads(Path(__file__).with_name("published_scores.json").read_text())["scores"]
V2 = "VLM2Vec-V2.0-Qwen2VL-2B"
METRIC = {"image": "hit@1", "video": "hit@1", "visdoc": "ndcg_linear@5"}

# image, video, visual documents, all: recomputed by hand from the published files
GOLDEN = {
    f"v2.0.0/{V2}": (0.648528, 0.345775, 0.653598, 0.580222),
    "v2.0.0/gme-Qwen2-VL-7B-Instruct": (0.559528, 0.384292, 0.751829, 0.578258),
    "v2.0.0/colpali-v1.3": (0.348861, 0.281728, 0.709687, 0.444392),
}
# of the paper that reports the groups, in percent with one digit (colpali-v1.3)
PAPER = {
    "image/CLS": 40.3,
    "image/QA": 11.5,
    "image/RET": 48.1,
    "image/VG": 40.3,
    "video/CLS": 26.7,
    "video/QA": 37.8,
    "video/RET": 21.6,
    "video/MRET": 25.5,
    "visdoc/ViDoRe-v1": 83.6,
    "visdoc/ViDoRe-v2": 52.0,
    "visdoc/VisRAG": 81.1,
    "visdoc/OOD": 43.1,
}


def as_file(path, scores):
    """Main metrics by task name as a leaderboard file."""
    metrics = {modality: {} for modality in METRIC}
    for name, value in scores.items():
        entry = entries().get(name.removesuffix("-fixed"))
        modality = entry.modality if entry else "video"
        metrics[modality][name] = {METRIC[modality]: value}
    path.write_text(json.dumps({"metadata": {"model_name": "m"}, "metrics": metrics}))
    return path


@pytest.mark.parametrize("name", GOLDEN)
def test_published_means_come_out_to_six_digits(tmp_path, name):
    submission = read_submission(as_file(tmp_path / "m.json", PUBLISHED[name]))
    means = benchmark_means(submission.main_scores)
    found = [means[group]["mean"] for group in ("image", "video", "visdoc", "overall")]
    assert np.round(found, 6).tolist() == list(GOLDEN[name])
    assert not any(entry["missing"] for entry in means.values())


def test_the_papers_groups_come_out():
    means = benchmark_means(PUBLISHED["v2.0.0/colpali-v1.3"])
    found = {group: 100 * means[group]["mean"] for group in PAPER}
    assert found == pytest.approx(PAPER, abs=0.051)
    domains = [len(benchmark_groups()[f"image/{part}-domain"]) for part in ("in", "out-of")]
    assert domains == [20, 16]


def test_the_released_script_prints_another_mean_for_visual_documents():
    printed = printed_mean(PUBLISHED[f"v2.0.0/{V2}"])
    assert (round(printed["mean"], 4), printed["tasks"]) == (0.6976, 22)


def test_the_corrected_page_data_change_the_mean(tmp_path):
    """Two revisions of the same model: 0.6476 on the old pages, 0.6860 on the corrected ones."""
    old = PUBLISHED[f"v2.0.1/{V2}"]
    new = PUBLISHED[f"v2.1-baselines-visdoc-page-fixed/{V2}"]
    assert round(benchmark_means(old)["visdoc"]["mean"], 4) == 0.6476
    corrected = {name: value for name, value in old.items() if name not in new}
    corrected |= {f"{name}-fixed": value for name, value in new.items()}
    submission = read_submission(as_file(tmp_path / "m.json", corrected))
    assert round(benchmark_means(submission.main_scores)["visdoc"]["mean"], 4) == 0.6860
    assert submission.pages == "fixed"
    assert submission.uncounted == ["MomentSeeker_1k8"]


def test_a_mean_over_a_part_names_what_is_missing(tmp_path):
    scores = dict(PUBLISHED[f"v2.0.0/{V2}"])
    for name in ("ViDoSeek-doc", "MMLongBench-doc"):
        del scores[name]
    means = benchmark_means(scores)
    assert means["visdoc"]["missing"] == ["ViDoSeek-doc", "MMLongBench-doc"]
    assert (means["visdoc"]["tasks"], means["overall"]["tasks"]) == (22, 76)
    assert means["image"]["missing"] == []
    assert "video" not in benchmark_means({"OVEN": 0.5})


def test_counts_are_the_benchmarks():
    sizes = {group: len(names) for group, names in benchmark_groups().items()}
    assert [sizes[group] for group in ("overall", "image", "video", "visdoc")] == [78, 36, 18, 24]
    assert "ViDoRe_esg_reports_v2" not in counted_tasks()


def write_run(folder, names, *, tagged=True, revision="VLM2Vec/X-page-fixed"):
    """A run's score files, each from one query, and its report."""
    folder.mkdir(parents=True)
    tasks = {}
    for number, name in enumerate(names):
        rows = [{"prediction": ["b", "a"][number % 2 :], "label": "a", "rel_scores": None}]
        scores = score_queries(rows).mean()
        stem = f"{name}_gen_gen" if tagged else name
        (folder / f"{stem}_score.json").write_text(json.dumps(scores))
        tasks[name] = {"revision": revision}
    if tagged:
        (folder / "report.json").write_text(
            json.dumps({"version": 1, "settings": {}, "tasks": tasks})
        )
        np.save(folder / f"{names[0]}_gen_qry.npy", np.zeros((1, 48), np.float32))


def test_runs_become_the_leaderboards_file(tmp_path):
    names = {
        modality: [e.name for e in entries().values() if e.modality == modality and e.counted]
        for modality in METRIC
    }
    for modality, own in names.items():
        write_run(tmp_path / modality, own)
    runs = [tmp_path / modality for modality in names]
    submission, notes = collect_submission(runs, "gen", model_name="mine", url=None)
    write_submission(tmp_path / "mine.json", submission)
    content = json.loads((tmp_path / "mine.json").read_text())
    assert list(content["metadata"]) == list(METADATA)
    assert content["metadata"]["model_name"] == "mine"
    assert content["metadata"]["embedding_dimension"] == 48
    assert content["metadata"]["data_source"] == "Self-Reported"
    assert [len(content["metrics"][modality]) for modality in METRIC] == [36, 18, 24]
    assert "ViDoSeek-page-fixed" in content["metrics"]["visdoc"]
    assert "ViDoSeek-page" not in content["metrics"]["visdoc"]
    stored = json.loads((tmp_path / "video" / "MSVD_gen_gen_score.json").read_text())
    assert content["metrics"]["video"]["MSVD"] == stored
    again = read_submission(tmp_path / "mine.json")
    assert again.main_scores == submission.main_scores
    assert len(again.main_scores) == 78
    assert "OVEN: 1 queries, the benchmark has 1000" in notes


def test_missing_tasks_are_strings_and_old_pages_keep_their_names(tmp_path):
    write_run(tmp_path / "run" / "visdoc", ["ViDoSeek-page"], tagged=False)
    with pytest.raises(ValueError, match="say --pages fixed"):
        collect_submission([tmp_path / "run"], "disc")
    submission, notes = collect_submission([tmp_path / "run"], "disc", pages="old")
    write_submission(tmp_path / "m.json", submission)
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert isinstance(metrics["visdoc"].pop("ViDoSeek-page"), dict)
    assert {value for tasks in metrics.values() for value in tasks.values()} == {"FILE_N/A"}
    assert "score files without modes in their names were taken for 1 tasks" in notes
    assert list(read_submission(tmp_path / "m.json").main_scores) == ["ViDoSeek-page"]


def test_runs_that_cannot_be_one_submission_are_refused(tmp_path):
    write_run(tmp_path / "a", ["OVEN"])
    write_run(tmp_path / "b", ["OVEN"])
    with pytest.raises(ValueError, match="OVEN: scores in .* need one"):
        collect_submission([tmp_path / "a", tmp_path / "b"], "gen")
    with pytest.raises(ValueError, match="no score files of disc"):
        collect_submission([tmp_path / "a"], "disc")
    with pytest.raises(ValueError, match="a submission has one"):
        collect_submission([tmp_path / "a"], "gen,disc")
    with pytest.raises(ValueError, match="is not a directory"):
        collect_submission([tmp_path / "nowhere"], "gen")
    (tmp_path / "a" / "OVEN_gen_gen_score.json").write_text("{")
    with pytest.raises(ValueError, match=r"OVEN_gen_gen_score.json: not JSON"):
        collect_submission([tmp_path / "a"], "gen")


BAD = [
    ("[]", "need an object with metrics"),
    ("{", "not a JSON file"),
    ('{"metrics": {"audio": {}}}', "need an object with metrics for image, video, visdoc"),
    ('{"metrics": {"image": {"OVEN": {"hit@1": 64.3}}}}', "OVEN: need hit@1 between 0 and 1"),
    ('{"metrics": {"image": {"OVEN": {"hit@1": NaN}}}}', "OVEN: need hit@1 between 0 and 1"),
    ('{"metrics": {"image": {"OVEN": {"ndcg_linear@5": 0.1}}}}', "need hit@1 .* got None"),
    ('{"metrics": {"image": {"OVEN": null}}}', "OVEN: need hit@1"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_file_of_another_kind_is_one_error(tmp_path, content, message):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_submission(tmp_path / "m.json")
