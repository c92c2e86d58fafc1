"""Files in upstream's form: scored end to end by a separate scorer, exchanged, and refused when
unsafe.
"""

import json
import pickle

import numpy as np
import pytest

from umer1.evaluation import files
from umer1.evaluation.scores.metrics import CUTOFFS
from umer1.evaluation.scores.scoring import score_files


def write_dataset(folder, number):
    """60 queries x 200 unit vectors of dimension 64; every third set has ties, local and global
    alternate.
    """
    random = np.random.default_rng(number)
    queries, candidates = (random.standard_normal((rows, 64)) for rows in (60, 200))
    if number % 3 == 0:
        candidates[100:] = candidates[:100]
    queries, candidates = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for x in (queries, candidates)
    )
    names = [f"c{row}" for row in random.permutation(200)]
    infos = []
    for _ in range(60):
        own = random.permutation(names)[:20].tolist()
        labels = own[: int(random.integers(1, 5))] if number % 4 < 2 else own[0]
        info = {"cand_names": own, "label_name": labels}
        if number % 4 == 1:
            info["rel_scores"] = random.integers(1, 4, len(labels)).tolist()
        infos.append(info)
    result = files.ResultFiles(folder, f"set{number}")
    files.save_queries(result.vectors("qry", "gen"), queries)
    files.save_candidates(result.vectors("tgt", "gen"), names, candidates)
    files.save_jsonl(result.scored("gen", "gen", "info.jsonl"), infos)
    return result


def independent_means(result, eval_type, sort):
    """Reads the three files with plain pickle and json and scores them by the definitions."""
    queries = pickle.loads(result.vectors("qry", "gen").read_bytes())
    table = pickle.loads(result.vectors("tgt", "gen").read_bytes())
    infos = [
        json.loads(line)
        for line in result.scored("gen", "gen", "info.jsonl").read_text().splitlines()
    ]
    everything = np.dot(queries, np.stack(list(table.values())).T)
    sums = {}
    for number, info in enumerate(infos):
        if eval_type == "local":
            names = info["cand_names"]
            scores = np.dot(queries[number], np.stack([table[name] for name in names]).T)
        else:
            names, scores = list(table), everything[number]
        if sort == "stable":
            # identical vectors have equal scores, which matrix products do not promise
            score_of = {
                table[name].tobytes(): score for name, score in zip(names, scores, strict=True)
            }
            scores = np.array([score_of[table[name].tobytes()] for name in names])
        ranking = [names[row] for row in np.argsort(-scores, kind=sort)]
        label = info["label_name"]
        labels = [label] if isinstance(label, str) else label
        grade = dict(zip(labels, info.get("rel_scores") or [1] * len(labels), strict=True))
        ranks = [ranking.index(name) + 1 for name in labels if name in ranking]
        for k in CUTOFFS:
            inside = sorted(rank for rank in ranks if rank <= k)
            p, r = len(inside) / k, len(inside) / len(labels)
            ideal = sorted(grade.values(), reverse=True)[:k]
            values = {
                "hit": float(bool(inside)),
                "precision": p,
                "recall": r,
                "f1": 2 * p * r / (p + r) if inside else 0,
                "mrr": 1 / inside[0] if inside else 0,
                "map": sum((i + 1) / rank for i, rank in enumerate(inside)) / min(len(labels), k),
            }
            for name, gain in (("linear", lambda g: g), ("exponential", lambda g: 2**g - 1)):
                gained = sum(gain(grade[ranking[rank - 1]]) / np.log2(rank + 1) for rank in inside)
                best = sum(gain(g) / np.log2(i + 2) for i, g in enumerate(ideal))
                values[f"ndcg_{name}"] = gained / best
            for metric, value in values.items():
                sums.setdefault(f"{metric}@{k}", []).append(value)
    return {name: float(np.mean(values)) for name, values in sums.items()}


@pytest.mark.parametrize("number", range(12))
def test_scores_from_files_agree_with_an_independent_scorer(tmp_path, number):
    result = write_dataset(tmp_path, number)
    eval_type = ("local", "global")[number % 2]
    for ties, sort in (("stable", "stable"), ("upstream", None)):
        scored = score_files(
            result.vectors("qry", "gen"),
            result.vectors("tgt", "gen"),
            result.scored("gen", "gen", "info.jsonl"),
            eval_type,
            ties=ties,
        )
        ours = scored.scores.mean()
        theirs = independent_means(result, eval_type, sort)
        assert len(theirs) == 24
        assert max(abs(ours[name] - theirs[name]) for name in theirs) < 1e-12
        assert (ours["num_pred"], ours["num_data"]) == (60, 60)
        assert (scored.upstream is not None) == (number % 4 == 1)
        if number % 3:
            assert scored.tied == 0


def test_names_are_upstreams(tmp_path):
    result = files.ResultFiles(tmp_path, "MSR-VTT")
    names = [result.vectors("qry", "gen"), result.vectors("tgt", "disc")]
    names += [
        result.scored("gen", "disc", what) for what in ("info.jsonl", "score.json", "pred.jsonl")
    ]
    assert [path.name for path in names] == [
        "MSR-VTT_gen_qry",
        "MSR-VTT_disc_tgt",
        "MSR-VTT_gen_disc_info.jsonl",
        "MSR-VTT_gen_disc_score.json",
        "MSR-VTT_gen_disc_pred.jsonl",
    ]


def test_pickles_are_what_upstream_writes_and_come_back_bitwise(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    files.save_queries(tmp_path / "q", vectors)
    files.save_candidates(tmp_path / "t", ["b", "a/é", "c"], vectors)
    plain_queries = pickle.loads((tmp_path / "q").read_bytes())
    plain_table = pickle.loads((tmp_path / "t").read_bytes())
    assert plain_queries.dtype == np.float32
    assert list(plain_table) == ["b", "a/é", "c"]
    assert type(plain_table) is dict
    np.testing.assert_array_equal(plain_table["a/é"], vectors[1])
    np.testing.assert_array_equal(files.load_queries(tmp_path / "q"), vectors)
    names, table = files.load_candidates(tmp_path / "t")
    assert names == ["b", "a/é", "c"]
    np.testing.assert_array_equal(table, vectors)


# protocol 2 stores bytes through codecs; no numpy on Python 3 writes it unasked
@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_pickles_of_other_protocols_and_numpy_versions_load(tmp_path, protocol, module):
    vectors = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    data = pickle.dumps(vectors, protocol=protocol)
    if protocol == 3:
        data = data.replace(b"numpy._core", module)
    elif module == b"numpy.core":
        # the module name is stored with its length in these protocols
        for name in (b"numpy._core.numeric", b"numpy._core.multiarray"):
            short = name.replace(b"_core", b"core")
            data = data.replace(bytes([len(name)]) + name, bytes([len(short)]) + short)
        # drop framing, whose byte count no longer holds
        data = data[:2] + data[11:]
    (tmp_path / "q").write_bytes(data)
    np.testing.assert_array_equal(files.load_queries(tmp_path / "q"), vectors)


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("load", [files.load_queries, files.load_candidates])
def test_a_pickle_with_code_is_refused_before_it_runs(tmp_path, load, capsys):
    (tmp_path / "bad").write_bytes(pickle.dumps({"x": Payload()}))
    with pytest.raises(ValueError, match=r"not a file of embeddings \(it wants builtins.print"):
        load(tmp_path / "bad")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", pickle.dumps({"a": np.zeros(2), "b": np.zeros(3)}), pickle.dumps([1, 2])],
)
def test_files_of_another_kind_are_one_clear_error(tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    for load in (files.load_queries, files.load_candidates):
        with pytest.raises(ValueError, match="bad: "):
            load(tmp_path / "bad")


def test_line_separators_of_unicode_end_no_row(tmp_path):
    """A model may write them, and a page of the web holds them."""
    rows = [{"text": f"one{mark}two"} for mark in ("\u2028", "\u2029", "\x85", "\r", "\n")]
    files.save_jsonl(tmp_path / "rows.jsonl", rows)
    assert files.load_jsonl(tmp_path / "rows.jsonl") == rows


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.save_jsonl(path, [{"a": 1}])
    with pytest.raises(TypeError):
        files.save_jsonl(path, [{"a": 2}, {"a": object()}])
    assert files.load_jsonl(path) == [{"a": 1}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
