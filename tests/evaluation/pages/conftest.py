"""Run directories written file by file, so that every ranking, text and picture in them is chosen."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umer1.evaluation import Report, files, oracle
from umer1.evaluation.files import ResultFiles
from umer1.evaluation.scores.metrics import score_queries

NAMES = ["ape", "bee", "cat", "dog"]
METRIC = {"image": "hit@1", "video": "hit@1", "visdoc": "ndcg_linear@5"}


def write_task(
    directory,
    name,
    ranks,
    *,
    modality="image",
    kind=None,
    group=None,
    data="d1",
    texts=None,
    reasoning="so it is",
    media=None,
    names=NAMES,
    pass_at_k=None,
):
    """ranks: mode -> per query the rank of the right candidate, 1..len(names). Query n's right one
    is names[n % len(names)]. Returns the report's entry.
    """
    result = ResultFiles(directory, name)
    count, entry = len(next(iter(ranks.values()))), {"main": {}, "scores": {}}
    labels = [names[number % len(names)] for number in range(count)]
    values = {}
    for mode, placed in ranks.items():
        rows = []
        for label, rank in zip(labels, placed, strict=True):
            others = [one for one in names if one != label]
            ranked = [*others[: rank - 1], label, *others[rank - 1 :]]
            rows.append({"prediction": ranked, "label": [label], "rel_scores": None})
        scored = score_queries(rows)
        values[mode] = scored.values[METRIC[modality]]
        entry["main"][mode] = float(values[mode].mean())
        entry["scores"][mode] = scored.mean()
        files.save_jsonl(result.scored(mode, mode, "pred.jsonl"), rows)
        infos = ({"cand_names": names, "label_name": label} for label in labels)
        files.save_jsonl(result.scored(mode, mode, "info.jsonl"), infos)
        vectors = np.eye(len(names), dtype=np.float32)
        files.save_candidates(result.vectors("tgt", mode), names, vectors)
        files.save_queries(
            result.vectors("qry", mode), vectors[[number % len(names) for number in range(count)]]
        )
    if {"disc", "gen"} <= set(ranks):
        entry["main"]["oracle"] = float(oracle(values["disc"], values["gen"]).mean())
    if "gen" in ranks:
        wrote = {"finish": "gen_emb", "summary": "sum", "tokens": 5}
        rows = [{**wrote, "reasoning": f"{reasoning} {'x' * 9 * n}"} for n in range(count)]
        files.save_jsonl(result.texts("qry", "gen"), rows)
        files.save_jsonl(
            result.texts("tgt", "gen"), [{**wrote, "reasoning": reasoning}] * len(names)
        )
    texts = texts or [f"question {number}" for number in range(count)]
    empty = {"image": [], "video": []}
    index = [
        {"row": number, "name": None, "text": text, **empty, **(media or {})}
        for number, text in enumerate(texts)
    ]
    files.save_jsonl(directory / f"{name}_qry_index.jsonl", index)
    index = [{"row": n, "name": one, "text": f"a {one}", **empty} for n, one in enumerate(names)]
    files.save_jsonl(directory / f"{name}_tgt_index.jsonl", index)
    entry |= {"modality": modality, "kind": kind, "group": group, "eval_type": "local"}
    entry |= {"main_metric": METRIC[modality], "queries": count, "candidates": len(names)}
    entry |= {"data": data, "tied_labels": {}, "without_gen_emb": {"qry": 0, "tgt": 0}}
    return entry | ({"pass_at_k": pass_at_k} if pass_at_k else {})


@pytest.fixture(scope="session")
def write_run():
    """write_run(root, "sft", digit={"ranks": {...}, ...}, ...) -> the run's directory root/sft."""

    def write(root: Path, label: str, settings=None, **tasks) -> Path:
        directory = root / label
        entries = {name: write_task(directory, name, **fields) for name, fields in tasks.items()}
        Report({"model": f"{label}@0", **(settings or {})}, entries).save(directory / "report.json")
        return directory

    return write


@pytest.fixture(scope="session")
def write_media():
    """write_media(root): a.png, eight frames below clip/, and a file that is no picture."""

    def write(root: Path) -> Path:
        (root / "clip").mkdir(parents=True)
        Image.new("RGB", (300, 200), (200, 30, 30)).save(root / "a.png")
        for number in range(8):
            frame = Image.new("RGB", (160, 120), (0, 30 * number, 90))
            frame.save(root / "clip" / f"{number}.jpg")
        (root / "broken.png").write_text(json.dumps("not a picture"))
        return root

    return write


@pytest.fixture
def make_run(write_run, tmp_path):
    return partial(write_run, tmp_path)


@pytest.fixture
def media_dir(write_media, tmp_path):
    return write_media(tmp_path / "media")


@pytest.fixture
def two_runs(make_run):
    """A task that differs query by query, and one with pages; sft, then rl."""
    digit = {"kind": "one_look", "pass_at_k": {"1": 0.5, "2": 0.7, "3": 0.75, "4": 0.8}}
    page = {"modality": "visdoc", "kind": "multi_step"}
    sft = make_run(
        "sft",
        digit={"ranks": {"disc": [1, 2, 1, 4, 3, 1], "gen": [1, 1, 1, 2, 4, 1]}, **digit},
        page={"ranks": {"disc": [2, 3, 1], "gen": [1, 1, 2]}, **page},
    )
    rl = make_run(
        "rl",
        digit={"ranks": {"disc": [1, 2, 1, 4, 3, 1], "gen": [1, 2, 1, 1, 1, 1]}, **digit},
        page={"ranks": {"disc": [2, 3, 1], "gen": [1, 3, 1]}, **page},
    )
    return sft, rl
