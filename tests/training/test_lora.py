"""LoRA: what is trained, what is saved, and that transformers and PEFT read it."""

import dataclasses
import json

import pytest
import torch

from tests.training.plain_checkpoint import plain_checkpoint
from tests.training.sft_cases import encoded_pairs
from umer1.embedder import Embedder
from umer1.model.checkpoint import load_model
from umer1.model.learned_rows import learned_rows
from umer1.model.sequence import pack
from umer1.training import loop, sft
from umer1.training.lora import add_lora, lora_layers, merged, save_adapters, without_adapters
from umer1.training.settings import LoRAConfig

LORA = LoRAConfig(rank=3, alpha=6.0)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def world(sft_config, request):
    """A model whose adapters and rows do something, and inputs."""
    tiny = {**sft_config.tiny, "tie_word_embeddings": request.param}
    model, processor, encoded = encoded_pairs(
        dataclasses.replace(sft_config, tiny=tiny), (0, 9, 17)
    )
    before = model(pack([pair.query.sequence for pair in encoded])).detach()
    add_lora(model, LORA, (processor.gen_id, processor.disc_id))
    after = model(pack([pair.query.sequence for pair in encoded])).detach()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)  # B is zero
    for layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
    for table in learned_rows(model):
        torch.nn.init.normal_(table.lora_rows, std=0.2)
    return model, processor, pack([pair.query.sequence for pair in encoded]), before


@torch.no_grad()
def test_merged_weights_compute_the_same_and_come_back_bit_by_bit(world):
    model, processor, packed, before = world
    ids = packed.input_ids.tolist()
    assert processor.gen_id in ids and processor.disc_id in ids
    bits = {name: each.clone() for name, each in model.state_dict().items()}
    apart = model(packed)
    logits = model.logits(apart)
    assert not torch.allclose(apart, before, atol=1e-2)
    with merged(model):
        torch.testing.assert_close(model(packed), apart, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.logits(apart), logits, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(bits[name], each) for name, each in model.state_dict().items())
    with without_adapters(model):
        torch.testing.assert_close(model(packed), before, rtol=0, atol=1e-5)
        assert not torch.allclose(model.logits(apart), logits, atol=1e-2)
    assert torch.equal(model(packed), apart)
    assert all(each.requires_grad for name, each in model.named_parameters() if ".lora_" in name)


@torch.no_grad()
def test_adapters_load_with_peft_on_transformers_model(world, tmp_path):
    from peft import PeftModel
    from transformers import Qwen2VLForConditionalGeneration

    from umer1.model.checkpoint import save_model

    model, _, packed, _ = world
    sequence = packed.lengths[2]  # the one of text alone
    ids = packed.input_ids[-sequence:][None]
    save_adapters(model, LORA, tmp_path / "adapter")
    with merged(model):
        save_model(model, tmp_path / "merged")
    with without_adapters(model):
        save_model(model, tmp_path / "base")
    load = Qwen2VLForConditionalGeneration.from_pretrained
    whole = load(tmp_path / "merged", dtype=torch.float32).eval()(input_ids=ids).logits
    base = load(tmp_path / "base", dtype=torch.float32).eval()
    plain = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=ids).logits
    assert float((whole - plain).abs().max()) > 0.1
    torch.testing.assert_close(adapted, whole, rtol=1e-4, atol=1e-4)
    ours = model.logits(model(packed)[-sequence:])
    torch.testing.assert_close(ours, whole[0], rtol=1e-3, atol=1e-3)


def _lora_run(sft_config, tmp_path, **change):
    config = dataclasses.replace(
        sft_config, tiny={}, model=str(tmp_path / "plain"), sources="texts", batch_size=4, steps=3, save_every=2,
        freeze_vision=True, freeze_merger=True, lora=LoRAConfig(rank=2), output=str(tmp_path / "run"), **change,
    )  # fmt: skip
    config.optimizer.learning_rate = 1e-2
    return config


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_models_copied_tokens_part_from_what_they_were_copied_from(
    sft_config, tmp_path, tied
):
    """With a tied head, equal rows have equal logits for ever: greedy decoding would never write <gen_emb>."""
    plain = plain_checkpoint(tmp_path / "plain", tie_word_embeddings=tied)
    before = load_model(tmp_path / "plain", dtype=torch.float32)
    saved = load_model(
        sft.run(_lora_run(sft_config, tmp_path), progress=False), dtype=torch.float32
    )
    tokens = [len(plain), len(plain) + 1]  # gen_emb, disc_emb
    sources = plain.convert_tokens_to_ids(["<|object_ref_end|>", "<|object_ref_start|>"])
    hidden = torch.randn(5, 32)
    with torch.no_grad():
        logits, old = saved.logits(hidden), before.logits(hidden)
    assert float((logits[:, tokens] - logits[:, sources]).abs().max()) > 1e-2
    table = saved.decoder.embed.weight.detach()
    assert float((table[tokens] - table[sources]).abs().max()) > 1e-2
    rest = torch.ones(len(table), dtype=torch.bool)
    rest[tokens] = False
    assert torch.equal(table[rest], before.decoder.embed.weight[rest]), "other rows were frozen"
    assert torch.equal(logits[:, rest], old[:, rest])


def test_a_checkpoint_without_the_learned_rows_is_refused(sft_config, tmp_path, monkeypatch):
    """As older versions wrote them."""
    plain_checkpoint(tmp_path / "plain")
    config = _lora_run(sft_config, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("umer1.training.lora.learn_rows", lambda *arguments, **named: None)
        sft.run(config, progress=False)
    with pytest.raises(ValueError, match="step-00000002 cannot be continued: it lacks .*lora_rows"):
        sft.run(config, progress=False)


def test_a_killed_run_with_lora_resumes_exactly(sft_config, tmp_path, monkeypatch):
    config = dataclasses.replace(
        sft_config, steps=4, save_every=2, freeze_vision=True, output=str(tmp_path / "whole"),
        lora=LoRAConfig(rank=2, dropout=0.3), microbatch_tokens=200,
    )  # fmt: skip
    config.optimizer.learning_rate = 1e-2
    wanted = Embedder.load(sft.run(config, progress=False), device="cpu").model.state_dict()
    killed = dataclasses.replace(config, output=str(tmp_path / "killed"))

    class Killed(BaseException):
        pass

    log = loop.Run.log

    def die(self, numbers):
        log(self, numbers)
        if self.step == 3:
            raise Killed

    monkeypatch.setattr(loop.Run, "log", die)
    with pytest.raises(Killed):
        sft.run(killed, progress=False)
    monkeypatch.setattr(loop.Run, "log", log)
    got = Embedder.load(sft.run(killed, progress=False), device="cpu").model.state_dict()
    assert got.keys() == wanted.keys() and not any("lora" in name for name in got)
    assert all(torch.equal(got[name], weight) for name, weight in wanted.items())
    saved = json.loads((tmp_path / "killed" / "adapter" / "adapter_config.json").read_text())
    assert saved["r"] == 2 and (tmp_path / "killed/adapter/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("change, message", [
    (dict(targets="qkv,q_proj"), "lora.targets: got 'qkv,q_proj'"), (dict(rank=-1), "rank -1"),
    (dict(dropout=1.0), "dropout 1.0"),
])  # fmt: skip
def test_wrong_settings_name_themselves(sft_config, change, message):
    model = encoded_pairs(sft_config, (17,))[0]
    with pytest.raises(ValueError, match=message):
        add_lora(model, dataclasses.replace(LORA, **change))
