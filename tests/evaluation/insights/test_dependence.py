"""Edited reasoning: who is swapped with whom, what is edited, what the columns mean."""

import numpy as np
import pytest

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.insights import dependence
from umer1.evaluation.insights.dependence import EDITS, edited_columns, edits, find_partners


def text(reasoning, summary, finish="gen_emb"):
    return {"finish": finish, "reasoning": reasoning, "summary": summary}


def test_partners_differ_in_both_and_ended_well():
    texts = [
        text("a", "1"),
        text("b", "1"),  # the same summary as the first
        text("c", "2"),
        text("d", "3", finish="length"),
        text("c", "4"),  # the same reasoning as the third
    ]
    for seed in range(5):
        partners = find_partners(texts, seed)
        assert partners[3] is None and 3 not in partners
        for row in (0, 1, 2, 4):
            other = texts[partners[row]]
            assert other["reasoning"] != texts[row]["reasoning"]
            assert other["summary"] != texts[row]["summary"]


def test_queries_without_a_partner_are_left_out():
    assert find_partners([text("a", "1"), text("b", "1"), text("a", "2")], 0)[0] is None
    assert find_partners([text("a", "1")], 0) == [None]


def test_edits_in_order():
    made = edits(text("own", "mine"), text("other", "theirs"), "wno")
    assert [(response.reasoning, response.summary) for response in made] == [
        ("own", "mine"),
        ("", "mine"),
        ("wno", "mine"),
        ("other", "mine"),
        ("own", "theirs"),
        ("other", "theirs"),
        ("", ""),
    ]
    assert len(made) == len(EDITS)


@pytest.fixture
def task():
    """Four queries on four orthogonal candidates; texts tell them apart but for the last, which
    did not end.
    """
    names, eye = ["a", "b", "c", "d"], np.eye(4, dtype=np.float32)
    return EvaluatedTask(
        name="task", modality="image", kind=None, eval_type="global", main_metric="hit@1",
        infos=[{"cand_names": names, "label_name": name} for name in names], names=names,
        queries={"disc": eye, "gen": eye}, candidates={"disc": eye, "gen": eye},
        right={"disc": np.ones(4), "gen": np.ones(4)},
        texts=[text(f"r{n}", str(n)) for n in range(3)] + [text("", "", "length")],
    )  # fmt: skip


@pytest.fixture
def told(monkeypatch):
    """A model whose vector is its summary's candidate, turned a little by wrong reasoning."""

    def response_vectors(embedder, items, responses, *, advance):
        vectors = np.zeros((len(items), len(responses[0]), 4), np.float32)
        for row, own in enumerate(responses):
            for place, response in enumerate(own):
                summary = int(response.summary) if response.summary else 3
                vectors[row, place, summary] = 1
                if response.reasoning != f"r{items[row]}":
                    vectors[row, place, 3] += 0.75
        advance(len(items))
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    from umer1.evaluation.insights import reasoning

    monkeypatch.setattr(reasoning, "response_vectors", response_vectors)
    monkeypatch.setattr(reasoning, "shuffle_tokens", lambda processor, text, seed: text[::-1])

    class Embedder:
        processor = None

    return Embedder()


def test_columns(task, told):
    columns = edited_columns(task, range(4), told)
    assert {len(values) for values in columns.values()} == {3}
    one, apart = [1.0] * 3, [0.8] * 3
    for edit, cosine, right, kept in (
        ("unedited", one, 1, 1),
        ("no_reasoning", apart, 1, 1),
        ("shuffled", apart, 1, 1),
        ("swapped", apart, 1, 1),
        ("other_summary", [0.0] * 3, 0, 0),
        ("all_swapped", [0.0] * 3, 0, 0),
        ("nothing", [0.0] * 3, 0, 0),
    ):
        np.testing.assert_allclose(columns[f"cosine:{edit}"], cosine, atol=1e-6, err_msg=edit)
        assert (columns[f"main:{edit}"] == right).all(), edit
        assert (columns[f"top:{edit}"] == kept).all(), edit
    np.testing.assert_allclose(columns["cosine:another query"], 0, atol=1e-6)
    np.testing.assert_allclose(columns["cosine:as generated"], 1, atol=1e-6)


def test_few_queries_are_spread_over_all(task, told):
    columns = edited_columns(task, range(4), told, queries=2)
    assert {len(values) for values in columns.values()} == {2}


def test_nothing_to_swap_gives_no_columns(task, told):
    task.texts[:] = [text("r", "s")] * 4
    assert edited_columns(task, range(4), told) == {}


def test_items_must_be_the_tasks(task, told):
    with pytest.raises(ValueError, match="items: got 2, task has 4 queries"):
        dependence.edited_columns(task, range(2), told)
