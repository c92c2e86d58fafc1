"""Checkpoints: exact both ways with transformers, old and new forms, whole files only."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from umer1.model import ModelConfig, Qwen2VL, load_model, pack, save_model
from umer1.model.key_names import canonical_key, checkpoint_tensors

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


RELEASED = {
    "2B": {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28},
}


@pytest.mark.parametrize("size", RELEASED)
def test_the_released_sizes_have_every_tensor(size):
    """Names and shapes for the hub's 2B and 7B, without their weights."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = HUB_CONFIG | RELEASED[size]
    config |= {
        "num_hidden_layers": 28,
        "num_key_value_heads": 2 if size == "2B" else 4,
        "vocab_size": 151936 if size == "2B" else 152064,
        "tie_word_embeddings": size == "2B",
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "mlp_ratio": 4,
            "num_heads": 16,
            "in_chans": 3,
            "hidden_size": config["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }
    with torch.device("meta"):
        model = Qwen2VL(ModelConfig.from_dict(config))
        reference = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**json.loads(json.dumps(config))))
    expected = {canonical_key(name): tuple(p.shape) for name, p in reference.named_parameters()}
    assert {entry.key: entry.shape for entry in checkpoint_tensors(model)} == expected
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(parameter.numel() for parameter in reference.parameters())
    assert round(count / 1e9, 2) == {"2B": 2.21, "7B": 8.29}[size]
