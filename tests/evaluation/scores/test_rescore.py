"""Result files of a directory: whoever wrote them, found, scored, compared, and never trusted."""

import json
import pickle

import numpy as np
import pytest

from umer1.evaluation import Report, evaluate, files
from umer1.evaluation.scores.rescore import rescore
from umer1.evaluation.scores.save_rescored import save_rescored
from umer1.evaluation.scores.stored import find_stored


def unit(random, rows):
    vectors = random.standard_normal((rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_upstream(folder, name, *, modes=None, graded=False, seed=0):
    """Files as the released evaluations write them, with plain pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    queries, candidates = unit(random, 9), unit(random, 30)
    names = [f"c{row}" for row in range(30)]
    infos = []
    for number in range(9):
        own = random.permutation(names)[:8].tolist()
        info = {"cand_names": own, "label_name": own[: 1 + number % 3]}
        if graded:
            info["rel_scores"] = [3, 2, 1][: 1 + number % 3]
        infos.append(info)
    query, target = modes or (None, None)
    (folder / "_".join(filter(None, (name, query, "qry")))).write_bytes(pickle.dumps(queries))
    table = dict(zip(names, candidates, strict=True))
    (folder / "_".join(filter(None, (name, target, "tgt")))).write_bytes(pickle.dumps(table))
    stem = "_".join(filter(None, (name, query, target)))
    lines = "".join(json.dumps(info) + "\n" for info in infos)
    (folder / f"{stem}_info.jsonl").write_text(lines)
    return queries, candidates, infos


def hit_at_1(queries, candidates, infos, local):
    """By hand, over a query's own candidates or over all."""
    hits = []
    for query, info in zip(queries, infos, strict=True):
        names = info["cand_names"] if local else [f"c{row}" for row in range(len(candidates))]
        scores = [float(query.astype(float) @ candidates[int(name[1:])]) for name in names]
        hits.append(names[int(np.argmax(scores))] in info["label_name"])
    return np.mean(hits)


def test_the_names_of_every_evaluation_are_understood(tmp_path):
    """OVEN is local and MSVD global: the benchmark says so, their files do not."""
    local = write_upstream(tmp_path / "image", "OVEN")
    both = write_upstream(tmp_path / "video", "MSVD", modes=("gen", "disc"), seed=1)
    found = {one.stored.name: one for one in rescore(tmp_path)}
    assert [(one.stored.name, one.stored.column) for one in found.values()] == [
        ("OVEN", "disc"),
        ("MSVD", "gen-disc"),
    ]
    assert found["OVEN"].main == hit_at_1(*local, local=True)
    assert found["MSVD"].main == hit_at_1(*both, local=False)
    assert found["OVEN"].theirs is None
    assert found["OVEN"].difference is None


def test_scores_beside_the_vectors_are_compared(tmp_path):
    write_upstream(tmp_path, "OVEN")
    (one,) = rescore(tmp_path)
    theirs = {**one.scored.scores.mean(), "map@5": one.scored.scores.mean()["map@5"] + 0.25}
    (tmp_path / "OVEN_score.json").write_text(json.dumps(theirs))
    (again,) = rescore(tmp_path)
    assert again.theirs == again.main
    assert again.difference == pytest.approx(0.25)
    (tmp_path / "OVEN_score.json").write_text("[]")
    with pytest.raises(ValueError, match="OVEN, disc: .*need an object of scores"):
        list(rescore(tmp_path))


def test_a_runs_own_directory_gives_its_scores_again(embedder, benchmark_dir, tmp_path):
    run = evaluate(
        embedder,
        benchmark_dir,
        output_dir=tmp_path / "run",
        modes="disc,gen,gen-disc",
        progress=False,
    )
    results = list(rescore(tmp_path / "run"))
    assert len(results) == 3 * len(run.tasks)
    assert {one.difference for one in results} == {0.0}
    report = save_rescored(tmp_path / "again", tmp_path / "run", results, {"ties": "stable"})
    for name, entry in run.tasks.items():
        assert report.tasks[name]["scores"] == entry["scores"]
        stem = f"{name}_gen_disc_pred.jsonl"
        assert (tmp_path / "again" / stem).read_bytes() == (tmp_path / "run" / stem).read_bytes()
    assert Report.load(tmp_path / "again" / "report.json").to_dict() == report.to_dict()


def test_arrays_with_an_index_stay_on_disk(tmp_path):
    queries, candidates, infos = write_upstream(tmp_path, "MSVD", modes=("gen", "gen"))
    expected = next(rescore(tmp_path)).main
    for side, vectors in (("qry", queries), ("tgt", candidates)):
        np.save(tmp_path / f"MSVD_gen_{side}.npy", vectors)
        (tmp_path / f"MSVD_gen_{side}").unlink()
    rows = [{"row": row, "name": f"c{row}"} for row in range(30)]
    files.save_jsonl(tmp_path / "MSVD_tgt_index.jsonl", rows)
    (stored,) = find_stored(tmp_path)
    assert isinstance(stored.load_candidates()[1], np.memmap)
    assert next(rescore(tmp_path)).main == expected
    files.save_jsonl(tmp_path / "MSVD_tgt_index.jsonl", rows[:7])
    with pytest.raises(ValueError, match="need a name for each of the 30 rows"):
        list(rescore(tmp_path))


def test_names_of_other_revisions_are_known(tmp_path):
    for name in ("MomentSeeker_1k8", "MMLongBench-page-fixed"):
        write_upstream(tmp_path, name)
    kinds = {one.stored.name: one.kind for one in rescore(tmp_path)}
    assert kinds["MomentSeeker_1k8"].eval_type == "local"
    assert kinds["MMLongBench-page-fixed"].revision == "VLM2Vec/MMLongBench-page-fixed"


def test_both_pairings_of_grades_are_shown(tmp_path):
    write_upstream(tmp_path, "ViDoSeek-doc", graded=True)
    (one,) = rescore(tmp_path)
    assert one.metric == "ndcg_linear@5"
    assert one.to_dict()["upstream_pairing"] is not None
    (upstream,) = rescore(tmp_path, pairing="upstream")
    assert upstream.main == one.to_dict()["upstream_pairing"]


def test_other_tasks_need_their_yaml(tmp_path, benchmark_dir):
    write_upstream(tmp_path / "out", "pages")
    with pytest.raises(ValueError, match="pages: not tasks of MMEB-V2; say with --benchmark"):
        list(rescore(tmp_path / "out"))
    (one,) = rescore(tmp_path / "out", benchmark=benchmark_dir)
    assert (one.kind.modality, one.kind.eval_type) == ("visdoc", "global")
    with pytest.raises(ValueError, match="no task named x; there are pages"):
        list(rescore(tmp_path / "out", names=["x"]))


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


def _object_array():
    array = np.empty(2, dtype=object)
    array[:] = [Payload(), 1]
    return array


# a pickle that asks for an array of 2^60 numbers
HUGE = pickle.dumps(np.zeros((2, 3), np.float32), protocol=2).replace(
    b"K\x02K\x03", b"\x8a\x08" + b"\0" * 7 + b"\x10K\x01"
)

HOSTILE = [
    pickle.dumps({"a": Payload()}),
    pickle.dumps(Payload()),
    pickle.dumps(_object_array()),
    pickle.dumps(np.array(["a", "b"])),
    pickle.dumps({"a": np.zeros(3), "b": "no"}),
    pickle.dumps({"a": np.array(["x", "y"]), "b": np.array(["x", "y"])}),
    pickle.dumps(np.zeros((2, 3, 4), np.float32)),
    pickle.dumps(np.zeros((9, 16), np.float32))[:-40],
    b"\x80\x04\x95" + b"\xff" * 8,
    HUGE,
    b"",
    b"PK\x03\x04 a zip file",
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_hostile_files_are_one_error_and_run_nothing(tmp_path, capsys, content, side):
    write_upstream(tmp_path, "OVEN")
    (tmp_path / f"OVEN_{side}").write_bytes(content)
    with pytest.raises(ValueError, match=f"OVEN_{side}"):
        list(rescore(tmp_path))
    assert "must not run" not in capsys.readouterr().out


def test_arrays_that_hold_pickles_are_refused(tmp_path):
    write_upstream(tmp_path, "OVEN")
    np.save(tmp_path / "OVEN_qry.npy", _object_array(), allow_pickle=True)
    with pytest.raises(ValueError, match=r"OVEN_qry.npy: not an array"):
        list(rescore(tmp_path))
    np.save(tmp_path / "OVEN_qry.npy", np.zeros((9, 16)))
    with pytest.raises(ValueError, match=r"OVEN_qry.npy: got float64"):
        list(rescore(tmp_path))


BROKEN_ROWS = [
    ('{"cand_names": ["c1"]}', "row 0 has no label_name"),
    ('{"label_name": "c1"}', "row 0 has no list cand_names"),
    ("{", "OVEN_info.jsonl:1: not JSON"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN_ROWS)
def test_rows_that_say_nothing_are_one_error(tmp_path, row, message):
    write_upstream(tmp_path, "OVEN")
    (tmp_path / "OVEN_info.jsonl").write_text(row + "\n")
    with pytest.raises(ValueError, match=message):
        list(rescore(tmp_path))


def test_a_directory_without_results_says_what_is_needed(tmp_path):
    with pytest.raises(ValueError, match="NAME_qry, NAME_tgt, NAME_info.jsonl"):
        find_stored(tmp_path)
    with pytest.raises(ValueError, match="directory: .* is not one"):
        find_stored(tmp_path / "nowhere")
