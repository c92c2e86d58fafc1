"""Adding the two embedding tokens to a Qwen2-VL checkpoint, as UME-R1 does.

`<gen_emb>` is added first, then `<disc_emb>`, as ordinary (not special) tokens: ids 151657 and
151658 on Qwen2-VL. Their rows start as copies of those of `<|object_ref_end|>` and
`<|object_ref_start|>`. As in the release, an untied head keeps its spare rows as they are; rows
that it gains are copied likewise.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from umer1.model.qwen2_vl import Qwen2VL
from umer1.prompts import DISC_TOKEN, GEN_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SOURCES = {GEN_TOKEN: "<|object_ref_end|>", DISC_TOKEN: "<|object_ref_start|>"}


@torch.no_grad()
def add_embedding_tokens(model: Qwen2VL, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Adds the tokens where they are missing; returns (gen_id, disc_id).

    The table is grown only when it lacks a row (Qwen2-VL's has spare ones). A token that the
    tokenizer already has keeps its row. Raises ValueError when the tokenizer lacks a source token.
    """
    vocabulary = tokenizer.get_vocab()
    lacking = [source for source in _SOURCES.values() if source not in vocabulary]
    if lacking:
        raise ValueError(f"tokenizer lacks {', '.join(lacking)}, want a Qwen2-VL tokenizer")
    added = [token for token in _SOURCES if token not in vocabulary]
    tokenizer.add_tokens(added)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SOURCES}
    rows = max(*ids.values(), len(tokenizer) - 1) + 1
    old_rows = model.config.vocab_size
    if rows > old_rows:
        _grow(model, rows)
    for token in added:
        source, row = vocabulary[_SOURCES[token]], ids[token]
        model.decoder.embed.weight[row] = model.decoder.embed.weight[source]
        if model.head is not None and row >= old_rows:
            model.head.weight[row] = model.head.weight[source]
    return ids[GEN_TOKEN], ids[DISC_TOKEN]


def _grow(model: Qwen2VL, rows: int) -> None:
    """Both tables to `rows` rows; new ones start as the mean of the old."""
    model.decoder.embed.weight = _grown(model.decoder.embed.weight, rows)
    model.decoder.embed.num_embeddings = rows
    if model.head is not None:
        model.head.weight = _grown(model.head.weight, rows)
        model.head.out_features = rows
    model.config = dataclasses.replace(model.config, vocab_size=rows)
    model.decoder.config = model.config


def _grown(table: Tensor, rows: int) -> nn.Parameter:
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return nn.Parameter(
        torch.cat([table, mean.expand(rows - table.shape[0], -1)]),
        requires_grad=table.requires_grad,
    )
