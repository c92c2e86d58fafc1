"""`umer1 data check` on training data, as a user runs it."""

import json

import pytest


def record(number, **media):
    def side(text, **extra):
        mark = "<image>" if extra else ""
        turns = [{"from": "human", "value": f"{mark}{text}\n<disc_emb>\n"}]
        turns.append({"from": "gpt", "value": "<think>so</think><answer>it\n<gen_emb>"})
        return {"conversations": turns, **extra}

    return {"dataset_name": "cats", "qry": side(f"q {number}", **media), "pos": side("cat")}


@pytest.fixture
def data(tmp_path):
    def write(rows):
        (tmp_path / "train.json").write_text(json.dumps(rows))
        return tmp_path / "train.json"

    return write


def test_a_good_set(run, data):
    path = data([record(number) for number in range(3)])
    result = run("data", "check", path, "-q")
    assert result.status == 0
    assert result.out.endswith("no problems\n")
    assert "cats" in result.out


def test_a_missing_picture_is_status_1(run, data, tmp_path):
    path = data([record(0), record(1, image="gone.jpg")])
    result = run("data", "check", path, "--json", "-q", "--data-path", tmp_path / "media")
    content = json.loads(result.out)
    assert result.status == 1
    assert (content["kind"], content["problems"]) == ("sft", {"missing medium": 1})
    assert "record 1" in content["examples"][0]["where"]
    assert str(tmp_path / "media" / "gone.jpg") in content["examples"][0]["reason"]
    assert run("data", "check", path, "-q", "--limit", 1).status == 0


def test_names_of_a_registry(run, data, tmp_path):
    data([record(number) for number in range(4)])
    registry = tmp_path / "registry.yaml"
    registry.write_text("mine: {annotation_path: train.json, data_path: .}\n")
    result = run("data", "check", "mine%50", "--registry", registry, "--json", "-q")
    assert json.loads(result.out)["checked"] == 2


def test_a_file_cut_short_is_one_line(run, data):
    path = data([record(0)])
    path.write_text(path.read_text()[:-30])
    result = run("data", "check", path, "-q")
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "train.json: record 0: not valid JSON" in line and "byte" in line


def test_vlm2vec_folders_are_given_by_name(run, tmp_path):
    row = {"qry": "what", "qry_image_path": "", "pos_text": "that", "pos_image_path": ""}
    (tmp_path / "tables" / "A").mkdir(parents=True)
    (tmp_path / "tables" / "A" / "original.jsonl").write_text(json.dumps(row))
    path = tmp_path / "train.yaml"
    path.write_text(
        "A: {dataset_parser: mmeb, dataset_name: hub/x, subset_name: A, image_dir: i}\n"
    )
    result = run("data", "check", path, "-q", "--local-folder", f"hub/x={tmp_path / 'tables'}")
    assert result.status == 0, result.err
    assert "responses  none" in result.out
    assert "wants NAME=FOLDER" in run("data", "check", path, "--local-folder", "hub/x").err
