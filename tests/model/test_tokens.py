"""<gen_emb> and <disc_emb>: order, ids, first values, and the size of the table."""

from __future__ import annotations

import pytest
import torch

from umer1.model import Qwen2VL, add_embedding_tokens
from umer1.model.tiny import SPECIAL_TOKENS, build_tokenizer, tiny_config


def without_embedding_tokens():
    """A tokenizer as Qwen2-VL's is before UME-R1: the special tokens are its last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def build(vocab_size, tied=True):
    tokenizer = without_embedding_tokens()
    assert len(tokenizer) == 270
    config = tiny_config(
        vocab_size, tokenizer, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=32,
        vision_dim=16, vision_depth=1, vision_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return Qwen2VL(config).reset_parameters(), tokenizer


def test_spare_rows_are_used_and_the_table_keeps_its_size():
    model, tokenizer = build(288)
    before = model.decoder.embed.weight.detach().clone()
    gen, disc = add_embedding_tokens(model, tokenizer)
    assert (gen, disc) == (270, 271)  # <gen_emb> first
    table = model.decoder.embed.weight
    assert table.shape == before.shape and model.config.vocab_size == 288
    assert torch.equal(table[gen], before[tokenizer.convert_tokens_to_ids("<|object_ref_end|>")])
    assert torch.equal(table[disc], before[tokenizer.convert_tokens_to_ids("<|object_ref_start|>")])
    others = [row for row in range(288) if row not in (gen, disc)]
    assert torch.equal(table[others], before[others])


def test_an_untied_head_keeps_its_spare_rows():
    """As the release does: only the input table is written."""
    model, tokenizer = build(288, tied=False)
    before = model.head_weight.detach().clone()
    gen, _ = add_embedding_tokens(model, tokenizer)
    source = tokenizer.convert_tokens_to_ids("<|object_ref_end|>")
    assert torch.equal(model.head_weight, before)
    assert torch.equal(model.decoder.embed.weight[gen], model.decoder.embed.weight[source])


def test_tokens_are_ordinary():
    model, tokenizer = build(288)
    gen, disc = add_embedding_tokens(model, tokenizer)
    assert tokenizer("a<disc_emb>\n<gen_emb>").input_ids[1:] == [
        disc,
        tokenizer("\n").input_ids[0],
        gen,
    ]
    assert not {"<gen_emb>", "<disc_emb>"} & set(tokenizer.all_special_tokens)
    assert tokenizer.decode([gen], skip_special_tokens=True) == "<gen_emb>"


def test_the_ids_of_qwen2_vl():
    """On a tokenizer of Qwen2-VL's length, 151657, the ids are the paper's."""

    class Lengthy:
        def __init__(self):
            self.vocabulary = {"<|object_ref_start|>": 151646, "<|object_ref_end|>": 151647}
            self.length = 151657

        def __len__(self):
            return self.length

        def get_vocab(self):
            return dict(self.vocabulary)

        def add_tokens(self, tokens):
            for token in tokens:
                self.vocabulary[token] = self.length
                self.length += 1

        def convert_tokens_to_ids(self, token):
            return self.vocabulary[token]

    model, _ = build(151936)
    assert add_embedding_tokens(model, Lengthy()) == (151657, 151658)
    assert model.head_weight.shape[0] == 151936


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("room", [0, 1], ids=["no room", "room for one"])
def test_the_table_grows_when_it_must(tied, room):
    model, tokenizer = build(270 + room, tied)
    old = model.decoder.embed.weight.detach().clone()
    old_head = model.head_weight.detach().clone()
    gen, disc = add_embedding_tokens(model, tokenizer)
    assert (gen, disc) == (270, 271)
    source = [
        tokenizer.convert_tokens_to_ids(f"<|object_ref_{side}|>") for side in ("end", "start")
    ]
    for table, before in ((model.decoder.embed.weight, old), (model.head_weight, old_head)):
        assert table.shape == (272, 32) and table.requires_grad
        assert torch.equal(table[:270], before[:270])
        assert torch.equal(table[disc], before[source[1]])
    assert torch.equal(model.decoder.embed.weight[gen], old[source[0]])
    expected = old_head[source[0]] if tied or not room else old_head[gen]
    assert torch.equal(model.head_weight[gen], expected)
    assert model.config.vocab_size == model.decoder.embed.num_embeddings == 272
    assert (model.head is None) == tied


def test_adding_twice_keeps_trained_rows():
    model, tokenizer = build(288)
    ids = add_embedding_tokens(model, tokenizer)
    with torch.no_grad():
        model.decoder.embed.weight[list(ids)] = 3.0
    assert add_embedding_tokens(model, tokenizer) == ids
    assert (model.decoder.embed.weight[list(ids)] == 3.0).all() and len(tokenizer) == 272


def test_another_tokenizer_is_refused():
    model, _ = build(288)
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="tokenizer lacks <|object_ref_end|>"):
        add_embedding_tokens(model, other)


def test_a_built_tokenizer_has_them_last():
    tokenizer = build_tokenizer(["some words to learn"] * 4, 300)
    assert tokenizer.convert_ids_to_tokens([len(tokenizer) - 2, len(tokenizer) - 1]) == [
        "<gen_emb>",
        "<disc_emb>",
    ]
