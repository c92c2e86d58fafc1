"""One clear error for every checkpoint that cannot be loaded; what is fetched from the hub."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from umer1.model import load_model, save_model


@pytest.fixture
def saved(tmp_path, make_model):
    save_model(make_model(layers=1), tmp_path)
    return tmp_path


def edit_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def edit_config(directory, **fields):
    path = directory / "config.json"
    data = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def test_weights_that_do_not_fit_are_named(saved):
    def change(weights):
        del weights["model.norm.weight"]
        weights["model.layers.7.self_attn.q_proj.weight"] = torch.ones(2)
        weights["visual.merger.ln_q.bias"] = torch.ones(5)

    edit_weights(saved, change)
    with pytest.raises(ValueError) as error:
        load_model(saved)
    message = str(error.value)
    assert "1 missing (model.norm.weight)" in message
    assert "1 unexpected (model.layers.7.self_attn.q_proj.weight)" in message
    assert "1 of another shape (visual.merger.ln_q.bias (5,), want (24,))" in message


def test_a_tied_head_may_be_there_but_not_differ(saved):
    edit_weights(saved, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 0}))
    load_model(saved)
    edit_weights(saved, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1}))
    with pytest.raises(ValueError, match="lm_head.weight differs.*set tie_word_embeddings"):
        load_model(saved)


def test_an_untied_head_must_be_there(saved):
    edit_config(saved, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"1 missing \(lm_head.weight\)"):
        load_model(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen2_5_vl"}, "model_type is 'qwen2_5_vl', want 'qwen2_vl'"),
        ({"vocab_size": None}, "config lacks the field.s. vocab_size"),
        ({"vision_config": None}, "config lacks vision_config"),
        ({"vision_config": {"depth": 2}}, "vision_config lacks the field.s. embed_dim"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', want 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window is true"),
        ({"rope_scaling": {"type": "yarn"}}, "rope type is 'yarn'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, want an integer above 0"),
        ({"num_key_value_heads": 5}, "num_attention_heads 12 must be a multiple"),
        ({"torch_dtype": "int8"}, "dtype is 'int8', want float32"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ],
)
def test_config_errors_name_the_field(saved, fields, message):
    edit_config(saved, **fields)
    with pytest.raises(ValueError, match=f"config.json: .*{message}"):
        load_model(saved)


def test_directories_that_are_no_checkpoint(saved, tmp_path):
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="model.safetensors is not a whole safetensors file"):
        load_model(saved)
    weights.unlink()
    with pytest.raises(ValueError, match="has no model.safetensors and no"):
        load_model(saved)
    (saved / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="pytorch_model.bin is a pickle, which is not read"):
        load_model(saved)
    index = saved / "model.safetensors.index.json"
    for text, message in (
        ("{", "is not a safetensors index"),
        ('{"weight_map": {"a": "../outside.safetensors"}}', "names the file '../outside"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', "which is not there"),
    ):
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_model(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_model(saved)
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match="has no config.json"):
        load_model(saved)


def test_hub_ids_are_fetched_only_when_no_directory_has_the_name(saved, monkeypatch):
    asked = []

    def snapshot_download(repository, allow_patterns, revision):
        asked.append(repository)
        assert not any(pattern.endswith(("bin", "pt")) for pattern in allow_patterns)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    load_model("someone/some-model")
    assert asked == ["someone/some-model"]
    shutil.copytree(saved, saved / "someone" / "some-model")
    monkeypatch.chdir(saved)
    load_model("someone/some-model")
    assert asked == ["someone/some-model"]


def test_a_name_that_is_neither(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="/no/such/dir: no such directory, and not a hub id"):
        load_model("/no/such/dir")
