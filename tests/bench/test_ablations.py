"""The table of ablations: what rows share, what is kept, what the external reasoner's rows are fed."""

import json

import numpy as np
import pytest

from bench import ablations
from bench.ablations import ABLATIONS, runs
from bench.external_summary import SummarisedEmbedder, with_annotated_summaries
from umer1 import Embedder
from umer1.data.mini import build
from umer1.evaluation import evaluate
from umer1.training.config import load_config
from umer1.training.settings import RLConfig, SFTConfig


def test_rows_share_the_sft_run_they_have_in_common():
    folders = {name: [run.folder for run in runs(name, row)] for name, row in ABLATIONS.items()}
    assert folders["full"] == ["sft-full", "rl-full"] and folders["no-rl"] == ["sft-full"]
    assert folders["rank-only"] == ["sft-full", "rl-rank-only"]
    assert folders["no-disc"] == ["sft-no-disc", "rl-no-disc"]
    assert folders["dume"] == ["sft-dume"] and folders["external-summary"] == [
        "sft-external-summary"
    ]
    different = {json.dumps([row.sft, row.rl, row.told]) for row in ABLATIONS.values()}
    assert len(different) == len(ABLATIONS)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_row_is_a_config_that_can_be_read(name, tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    for kind, asked in ((SFTConfig, ABLATIONS[name].sft), (RLConfig, ABLATIONS[name].rl or {})):
        settings = load_config(empty, kind, asked)
        assert {key: getattr(settings, key) for key in asked} == asked


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """The command with trainings and evaluations that only write their files; what it asked for."""
    asked = []

    def train_stage(stage, data, output, overrides):
        if not (output / "seconds.json").exists():
            asked.append((output.parent.name, output.name, stage, overrides))
            output.mkdir(parents=True)
            (output / "seconds.json").write_text("1.0")

    def evaluate(embedder, data, *, output_dir, modes, **_):
        asked.append((output_dir.parent.name, output_dir.name, modes, embedder))
        return output_dir.parent.name, modes

    def scores(report):
        seed, modes = report
        value = 0.5 + int(seed.split("-")[1]) / 10
        group = {mode: value for mode in modes.split(",")}
        return {"groups": {"overall": group, "multi_step": group}}

    def build(root, **_):
        (root / "train").mkdir(parents=True, exist_ok=True)
        (root / "train" / "sft.json").write_text("[]")
        return root

    for name, function in dict(train_stage=train_stage, evaluate=evaluate, scores=scores, build=build).items():  # fmt: skip
        monkeypatch.setattr(ablations, name, function)
    monkeypatch.setattr(ablations.Embedder, "load", lambda path, device: str(path))

    def run(*options):
        asked.clear()
        files = ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "a.json"), "--page", str(tmp_path / "page.md")]  # fmt: skip
        assert ablations.main([*files, *options]) == 0
        return list(asked)

    return run, tmp_path


def test_finished_runs_are_skipped_and_the_table_has_their_spread(pretended, capsys):
    run, root = pretended
    (root / "page.md").write_text("# Results\n\nBefore.\n")
    first = run("--only", "full", "no-rl", "--seeds", "0", "1", "--steps-share", "0.25")
    trained = {
        (seed, folder): more for seed, folder, stage, more in first if stage in ("sft", "rl")
    }
    assert set(trained) == {
        (f"seed-{s}-share-0.25", f"{kind}-full") for s in (0, 1) for kind in ("sft", "rl")
    }
    assert trained["seed-1-share-0.25", "sft-full"] == {
        "seed": 1, "steps": 650, "align_weight": 0.0,
    }  # fmt: skip
    rl = trained["seed-1-share-0.25", "rl-full"]
    assert rl["steps"] == 30 and rl["model"].endswith("seed-1-share-0.25/sft-full/model")
    page = (root / "page.md").read_text()
    assert page.startswith("# Results\n\nBefore.\n")
    assert "| **SFT, then RL with rank x gap** | 55.0 (50.0 to 60.0) |" in page
    assert "[10/10]" in capsys.readouterr().out
    assert run("--only", "full", "no-rl", "--seeds", "0", "1", "--steps-share", "0.25") == []
    more = run("--only", "full", "no-rl", "dume", "--seeds", "0", "--steps-share", "0.25")
    assert [each[1] for each in more] == ["sft-dume", "eval-dume"]
    page = (root / "page.md").read_text()
    assert page.count("begin: ablations") == 1 and "(DUME) | – | 50.0 (50.0 to 50.0) | – |" in page
    assert set(json.loads((root / "a.json").read_text())["ablations"]) == {"full", "no-rl", "dume"}


def test_another_scale_of_the_data_is_another_table(pretended, monkeypatch):
    """Nothing of the whole data is taken for it, and the project's table stays."""
    run, root = pretended
    monkeypatch.setattr(ablations, "ROOT", root / "project")
    run("--only", "dume", "--seeds", "0")
    less = run("--only", "dume", "--seeds", "0", "--scale", "0.1")
    assert {each[0] for each in less} == {"seed-0-share-1-scale-0.1"} and len(less) == 2
    assert (root / "work" / "mini-scale-0.1").is_dir()


def test_less_than_the_whole_table_stays_in_the_work_folder(pretended, monkeypatch):
    _, root = pretended
    monkeypatch.setattr(ablations, "ROOT", root / "project")
    work = ["--work", str(root / "work")]
    assert ablations.main([*work, "--seeds", "0", "1"]) == 0
    assert (root / "work" / "tiny.json").exists() and (root / "work" / "results.md").exists()
    assert not (root / "project").exists()
    assert ablations.main([*work, "--seeds", "0", "1", "2"]) == 0
    found = json.loads(
        (root / "project" / "bench" / "results" / "ablations" / "tiny.json").read_text()
    )
    assert len(found["ablations"]) == len(ABLATIONS)
    assert "begin: ablations" in (root / "project" / "docs" / "results.md").read_text()


def test_the_external_reasoner_is_asked_in_evaluation_and_the_annotation_in_training(pretended):
    run, root = pretended
    asked = run("--only", "external-summary", "--seeds", "0")
    train, score = asked
    assert train[3]["data"].endswith("mini-told/sft.json") and train[3]["generative"] is False
    assert score[2] == "disc" and isinstance(score[3], SummarisedEmbedder)
    assert score[3].reasoner == "tiny" and score[3].embedder.endswith("sft-external-summary/model")


def test_summaries_stand_after_the_text_on_both_sides(tmp_path):
    turn = lambda value, who: {"from": who, "value": value}  # noqa: E731
    side = {
        "conversations": [
            turn("<image>\nWhat is it?\n<disc_emb>\nRepresent with <gen_emb>.", "human"),
            turn("<think>I see.</think><answer>a cat\n<gen_emb>", "gpt"),
        ],
        "image": "a.png",
    }
    (tmp_path / "sft.json").write_text(json.dumps([{"qry": side, "pos": side}]))
    [record] = json.loads(with_annotated_summaries(tmp_path / "sft.json", tmp_path / "new" / "told.json").read_text())  # fmt: skip
    for each in (record["qry"], record["pos"]):
        human, response = each["conversations"]
        assert (
            human["value"]
            == "<image>\nWhat is it?\nSummary: a cat\n<disc_emb>\nRepresent with <gen_emb>."
        )
        assert response == side["conversations"][1] and each["image"] == "a.png"


def test_the_summarised_embedder_embeds_the_items_with_what_the_reasoner_wrote():
    class Reasoner:
        def encode(self, items, mode, **options):
            assert mode == "gen"
            self.summary = [f"{len(items)} items" for _ in items]
            return self

    class Model:
        def encode(self, items, mode, **options):
            return [(item.text, item.media, mode, options) for item in items]

    embedder = SummarisedEmbedder(Model(), Reasoner())
    found = embedder.encode(["one", {"text": "two"}], mode="disc", batch_size=4)
    assert found == [(f"{text}\nSummary: 2 items", (), "disc", {"batch_size": 4}) for text in ("one", "two")]  # fmt: skip
    with pytest.raises(ValueError, match="wants 'disc'"):
        embedder.encode(["one"], mode="gen")


def test_the_evaluation_can_read_a_summarised_embedder(tmp_path):
    """A task of the miniature benchmark for real, and the vectors of one of its items."""
    tiny = Embedder.load("tiny", device="cpu")
    told = SummarisedEmbedder(tiny, tiny)
    data = build(tmp_path / "mini", seed=0, scale=0.01)
    report = evaluate(
        told, data, output_dir=tmp_path / "out", modes="disc", names=["digit_sum"],
        max_new_tokens=64, batch_size=64, progress=False,
    )  # fmt: skip
    assert 0 <= report.to_dict()["tasks"]["digit_sum"]["main"]["disc"] <= 1
    options = dict(max_new_tokens=32, batch_size=2, seed=0, n=1, temperature=0.0, readout="at")
    seen = dict(told.stream(["3 + 4", "seven"], numbers=[5, 6], **options))
    wanted = told.encode(["3 + 4", "seven"], progress=False, **options)
    assert all(np.array_equal(seen[place].disc[0], wanted.disc[place]) for place in (0, 1))
    assert not np.array_equal(seen[0].disc, tiny.encode("3 + 4", "disc", progress=False).disc)
