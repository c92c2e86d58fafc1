"""What a config's `data` opens: a store of pairs, and clear errors for what a stage cannot train on."""

import json
from dataclasses import replace

import pytest
import yaml

from umer1.training import sft
from umer1.training.settings import RLConfig
from umer1.training.start import open_pairs


@pytest.fixture
def vlm2vec(records, tmp_path):
    """A VLM2Vec set of 16 pairs, half of them with a picture."""
    rows = [
        {"qry": f"<|image_1|>\nWhat is {n}?" if n < 8 else f"Who is {n}?",
         "qry_image_path": f"{n}.png" if n < 8 else "", "pos_text": f"it is {n}",
         "pos_image_path": ""}
        for n in range(16)
    ]  # fmt: skip
    (tmp_path / "tables" / "A").mkdir(parents=True)
    (tmp_path / "tables" / "A" / "original.json").write_text(json.dumps(rows))
    entry = {"dataset_parser": "mmeb", "dataset_name": "hub/set", "subset_name": "A",
             "image_dir": str(records), "weight": 1}  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"A": entry}))
    return {"data": str(tmp_path / "train.yaml"), "local_folders": {"hub/set": "tables"}}


def test_sources_and_registries(sft_config, records, tmp_path):
    pairs = open_pairs(replace(sft_config, sources="texts,videos"), "sft")
    assert sorted(set(pairs.source_names)) == ["texts", "videos"] and len(pairs) == 16
    with pytest.raises(ValueError, match="sources: no pairs of 'sounds'; the data has pictures, t"):
        open_pairs(replace(sft_config, sources="sounds"), "sft")
    registry = tmp_path / "sets.yaml"
    registry.write_text(f"mine: {{annotation_path: {records}/sft.json, data_path: {records}}}\n")
    half = replace(sft_config, data="mine%50", registry=str(registry))
    assert len(open_pairs(half, "sft")) == 12
    with pytest.raises(ValueError, match="data: wants a file or registry names, got nothing"):
        open_pairs(replace(sft_config, data=""), "sft")


def test_generative_sft_of_pairs_without_responses_is_refused(sft_config, vlm2vec):
    with pytest.raises(ValueError, match="without responses .* set `generative: false`"):
        open_pairs(replace(sft_config, **vlm2vec), "sft")


def test_the_discriminative_embedding_trains_on_vlm2vec(sft_config, vlm2vec):
    config = replace(sft_config, **vlm2vec, generative=False, steps=2)
    model = sft.run(config, progress=False)
    lines = (model.parent / "sft_metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["disc"] for line in lines]
    assert len(losses) == 2 and all(0 < loss < 50 for loss in losses)


def test_rl_gets_the_bare_texts(vlm2vec):
    pairs = open_pairs(RLConfig(**vlm2vec), "rl")
    assert [pair.query.text for pair in (pairs[1], pairs[9])] == ["What is 1?", "Who is 9?"]
    assert pairs[1].query.images[0].endswith("1.png")
