"""The tokenizer and the config of models trained from scratch."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from umer1.model import Qwen2VL, load_model, pack, save_model
from umer1.model.tiny import SPECIAL_TOKENS, build_tokenizer, tiny_config

PHRASE = "You are a helpful assistant."
CORPUS = ["the numbers 12 and 345 add up", "a photograph of a cat", PHRASE + " Words."] * 8


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CORPUS, 400, [PHRASE, PHRASE])


def test_vocabulary_order(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens[-17:] == [*SPECIAL_TOKENS, PHRASE, "<gen_emb>", "<disc_emb>"]
    assert len(tokenizer) <= 400
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_encoding_round_trips(tokenizer):
    text = f"<|im_start|>system\n{PHRASE}<|im_end|>\nnaïve 漢字 \t 1234's  end<gen_emb>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(PHRASE) in ids
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_digits_stay_single(tokenizer):
    """As Qwen2 splits: every digit is a token, and no merge swallows one."""
    assert len(tokenizer("34512").input_ids) == 5
    assert not any(
        len(token) > 1 and any(c.isdigit() for c in token)
        for token in tokenizer.get_vocab()
        if not token.startswith("<")
    )


def test_saved_tokenizer_beside_a_model_reads_back(tokenizer, tmp_path):
    model = Qwen2VL(tiny_config(len(tokenizer), tokenizer, layers=1)).reset_parameters()
    save_model(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = f"a cat 12 {PHRASE}<disc_emb>\n<|vision_start|><|image_pad|><|vision_end|>"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.eos_token_id == model.config.eos_token_id
    assert again.decode(again(text).input_ids, skip_special_tokens=True).startswith("a cat 12")
    assert torch.equal(load_model(tmp_path).head_weight, model.head_weight)


def test_config_ids_and_sections(tokenizer):
    config = tiny_config(512, tokenizer, hidden=96, heads=3, kv_heads=1)
    assert config.mrope_section == (4, 6, 6) and config.head_dim == 32
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert config.vocab_size == 512


def test_too_small_a_vocabulary(tokenizer):
    with pytest.raises(ValueError, match="vocab_size is 200, want at least 272"):
        build_tokenizer(CORPUS, 200)


def test_a_tiny_model_learns(tokenizer, make_sequence):
    """Forty steps memorise eight sequences with a picture each."""
    config = tiny_config(
        len(tokenizer), tokenizer, hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128,
        vision_dim=32, vision_depth=1, vision_heads=2, patch_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VL(config).reset_parameters()
    packed = pack([make_sequence(2, (1, 4, 4), 10, seed=n) for n in range(8)])
    index = torch.cat([torch.arange(6, 15) + start for start in packed.cu_seqlens[:-1].tolist()])
    labels = packed.input_ids[index + 1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model.logits(model(packed)[index]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 4.5 and losses[-1] < 0.5
