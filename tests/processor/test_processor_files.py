"""Saving and loading: files, hub ids, copies."""

import copy
import json
import pickle
import re
import shutil

import pytest
import torch
from processor_inputs import (
    CLIP,
    LIMITS,
    PHRASES,
    make_tokenizer,
)
from transformers import AutoProcessor

from umer1.media import EVALUATION_LIMITS, PixelFormat
from umer1.processor import Processor


def test_save_and_load(processor, saved):
    loaded = Processor.load(saved)
    assert loaded.limits == LIMITS and loaded.pixel_format == PixelFormat()
    item = {"text": "What is it? <|im_end|>", "video": CLIP}
    left, right = processor.encode(item), loaded.encode(item)
    assert torch.equal(left.input_ids, right.input_ids)
    assert torch.equal(left.pixel_values, right.pixel_values)
    assert json.loads((saved / "umer1.json").read_text())["limits"]["image_max_pixels"] == 100_000


def test_saved_again_over_a_unified_config(processor, tmp_path):
    """transformers 5 reads processor_config.json first: an old one must not win."""
    old = AutoProcessor.from_pretrained(_saved(processor, tmp_path))
    old.image_processor.size = {"shortest_edge": 3136, "longest_edge": 3136}
    old.save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").exists()
    processor.save(tmp_path)
    size = AutoProcessor.from_pretrained(tmp_path).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (784, 100_000)


def _saved(processor, directory):
    processor.save(directory)
    return directory


def test_without_umer1_json_the_released_limits_hold(processor, tmp_path):
    processor.save(tmp_path)
    (tmp_path / "umer1.json").unlink()
    assert Processor.load(tmp_path).limits == EVALUATION_LIMITS


def test_umer1_json_wins(processor, tmp_path):
    processor.save(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config |= {"min_pixels": 3136, "max_pixels": 3136, "image_mean": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    loaded = Processor.load(tmp_path)
    assert loaded.limits == LIMITS
    assert loaded.pixel_format.mean == (0.5, 0.5, 0.5)


def test_configs_that_transformers_saves(processor, reference, tmp_path):
    reference.save_pretrained(tmp_path)
    loaded = Processor.load(tmp_path)
    assert loaded.pixel_format == PixelFormat()
    assert loaded.encode("a cat", mode="plain").input_ids[-1] == processor.encode("a").input_ids[-1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("umer1.json", "{", "umer1.json: not valid JSON"),
        ("umer1.json", '{"limits": {"frames": 3}}', "limits: unknown key 'frames'"),
        ("preprocessor_config.json", '{"do_resize": false}', "with do_resize off"),
        ("preprocessor_config.json", '{"rescale_factor": 1}', "rescale_factor 1, wants 1/255"),
    ],
)
def test_bad_files(processor, tmp_path, name, content, message):
    processor.save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        Processor.load(tmp_path)


@pytest.mark.parametrize("name", ["/missing/model", "a/b/c", "a b"])
def test_loading_what_is_not_there(name):
    with pytest.raises(ValueError, match=f"^{name}: no such directory, and not a hub id"):
        Processor.load(name)


def test_a_directory_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path}: its tokenizer cannot be loaded"):
        Processor.load(tmp_path)


def test_hub_ids(saved, tmp_path, monkeypatch):
    from huggingface_hub import constants

    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(saved, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Processor.load("owner/name").limits == LIMITS
    with pytest.raises(ValueError, match="owner/other: no such directory, and the hub does not"):
        Processor.load("owner/other")


def test_another_tokenizer_may_take_the_checkpoints_place(saved):
    tokenizer = make_tokenizer(PHRASES)
    assert Processor.load(saved, tokenizer=tokenizer).tokenizer is tokenizer


def test_copies(processor):
    expected = processor.encode("a cat <|im_end|>").input_ids
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert torch.equal(other.encode("a cat <|im_end|>").input_ids, expected)
