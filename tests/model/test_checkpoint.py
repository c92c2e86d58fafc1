"""Checkpoints: exact both ways with transformers, old and new forms, and one clear error each."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from umer1.model import ModelConfig, load_model, pack, save_model

# transformers' own random model, with the sizes of `make_config`.
HUB_CONFIG = {
    # The file form of Qwen/Qwen2-VL-2B-Instruct: text fields at the root.
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 92,
    "eos_token_id": 93,
    "vision_start_token_id": 88,
    "vision_end_token_id": 89,
    "vision_token_id": 94,
    "image_token_id": 90,
    "video_token_id": 91,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 104,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 2,
        "embed_dim": 24,
        "mlp_ratio": 2,
        "num_heads": 2,
        "in_chans": 3,
        "hidden_size": 192,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "spatial_patch_size": 4,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": 97,
}
PARTS = (3, (1, 4, 6), 4, (2, 2, 4), 5)


def transformers_model(config):
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(0)
    reference = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**json.loads(json.dumps(config))))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return reference.eval()


@torch.no_grad()
def assert_same_logits(model, reference, sequence, inputs):
    expected = reference(**inputs(sequence)).logits[0]
    assert expected.abs().max() > 0.5
    ours = model.logits(model(pack([sequence])))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_size", ["5GB", "200KB"], ids=["one file", "sharded"])
def test_loads_what_transformers_saves(tied, shard_size, tmp_path, make_sequence, reference_inputs):
    reference = transformers_model(HUB_CONFIG | {"tie_word_embeddings": tied})
    reference.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "5GB")
    model = load_model(tmp_path)
    assert (model.head is None) == tied
    assert_same_logits(model, reference, make_sequence(*PARTS), reference_inputs)


@pytest.mark.parametrize("new_names", [False, True], ids=["original names", "new names"])
def test_loads_the_hub_form(new_names, tmp_path, make_sequence, reference_inputs):
    """The original flat config.json, and both generations of key names."""
    reference = transformers_model(HUB_CONFIG)
    weights = {}
    for name, tensor in reference.state_dict().items():
        original = name.replace("model.visual.", "visual.").replace("model.language_model", "model")
        weights[name if new_names else original] = tensor.clone()
    del weights["lm_head.weight"]
    weights["visual.rotary_pos_emb.inv_freq"] = torch.ones(3)  # a buffer that old releases saved
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(HUB_CONFIG))
    model = load_model(tmp_path)
    assert_same_logits(model, reference, make_sequence(*PARTS), reference_inputs)


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 100_000], ids=["one file", "sharded"])
def test_transformers_loads_what_we_save(
    untied, shard_bytes, tmp_path, make_model, make_sequence, reference_inputs
):
    from transformers import AutoConfig, Qwen2VLForConditionalGeneration

    model = make_model(tie_word_embeddings=not untied)
    save_model(model, tmp_path, max_shard_bytes=shard_bytes)
    files = sorted(path.name for path in tmp_path.iterdir())
    if shard_bytes == 100_000:
        assert "model.safetensors.index.json" in files and "model.safetensors" not in files
    else:
        assert files == ["config.json", "model.safetensors"]
    reference, report = Qwen2VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    assert_same_logits(model, reference, make_sequence(*PARTS), reference_inputs)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.text_config.rope_parameters["mrope_section"] == [2, 3, 3]
    assert config.text_config.eos_token_id == 93 and config.image_token_id == 90
    # And back again, from what transformers writes.
    reference.save_pretrained(tmp_path / "again")
    for ours, again in zip(
        model.parameters(), load_model(tmp_path / "again").parameters(), strict=True
    ):
        assert torch.equal(ours, again)


def test_saved_keys_are_the_original_ones(tmp_path, make_model):
    """vLLM and SGLang map the names of the hub's checkpoints."""
    model = make_model(layers=1, tie_word_embeddings=False)
    save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    attention = "model.layers.0.self_attn."
    assert {
        "visual.patch_embed.proj.weight",
        "visual.blocks.1.attn.qkv.bias",
        "visual.merger.mlp.2.weight",
        "model.embed_tokens.weight",
        attention + "q_proj.weight",
        attention + "k_proj.bias",
        "model.layers.0.mlp.gate_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    } <= weights.keys()
    assert all(name.startswith(("visual.", "model.", "lm_head.")) for name in weights)
    assert not any("language_model" in name for name in weights)
    assert weights["visual.patch_embed.proj.weight"].shape == (24, 3, 2, 4, 4)
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["rope_scaling"] == {"type": "mrope", "mrope_section": [2, 3, 3]}
    assert data["architectures"] == ["Qwen2VLForConditionalGeneration"]
    assert data["hidden_size"] == 192 and "text_config" not in data
    assert ModelConfig.from_dict(data) == model.config


def test_dtype_is_the_configs_or_the_callers(tmp_path, make_model):
    save_model(make_model(layers=1).bfloat16(), tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16
    assert load_model(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_saving_again_replaces_the_other_form(tmp_path, make_model):
    model = make_model(layers=1)
    for shard_bytes in (50_000, 5_000_000_000, 100_000):
        with torch.no_grad():
            model.decoder.norm.weight.add_(1)
        save_model(model, tmp_path, max_shard_bytes=shard_bytes)
        names = {path.name for path in tmp_path.glob("model*")}
        index = tmp_path / "model.safetensors.index.json"
        if index.exists():
            listed = set(json.loads(index.read_text())["weight_map"].values())
            assert names == listed | {index.name}
        else:
            assert names == {"model.safetensors"}
        assert torch.equal(load_model(tmp_path).decoder.norm.weight, model.decoder.norm.weight)


def test_a_failed_save_leaves_the_old_file(tmp_path, make_model, monkeypatch):
    model = make_model(layers=1)
    save_model(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def half_written(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("umer1.model.checkpoint.save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


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

    def snapshot_download(repository, allow_patterns):
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
    with pytest.raises(ValueError, match="'?/no/such/dir'? is neither a directory nor a hub id"):
        load_model("/no/such/dir")
