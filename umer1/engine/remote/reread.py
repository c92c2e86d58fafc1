"""One forward over sequences that somebody else wrote: their vectors and log-probabilities, as the
native engine would have found them.

Shapes: R sequences, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from umer1.engine.prefill import encode_media
from umer1.engine.prefixes import FeatureCache, prompt_content
from umer1.model.attention import PackedAttention, compute_dtype
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack

TOKENS = 8192  # of one forward, unless one sequence alone is longer
_LOGIT_ROWS = 512  # of the whole vocabulary at once


class Written(NamedTuple):
    """tokens: written after the prompt. reads: places in the whole sequence whose states are
    wanted. temperature: of the log-probabilities."""

    prompt: Sequence
    tokens: list[int]
    reads: list[int]
    temperature: float


class Reading(NamedTuple):
    """vectors: float32 [H] each, L2-normalised, in the order of `reads`. logprobs: of each token."""

    vectors: list[Tensor]
    logprobs: list[float]


class Reader:
    """
    Args:
        model: used as it is.
        tokens: most in one forward.
        feature_memory: bytes of visual features kept: the samples of a prompt share its media.
    """

    def __init__(self, model: Qwen2VL, *, tokens: int = TOKENS, feature_memory: int = 1 << 30):
        self.model, self.tokens = model, tokens
        self.features = FeatureCache(feature_memory)

    def read(self, rows: Iterable[Written]) -> list[Reading]:
        """In the order given."""
        readings: list[Reading] = []
        batch: list[Written] = []
        size = 0
        for each in rows:
            length = len(each.prompt) + len(each.tokens)
            if batch and size + length > self.tokens:
                readings += self._forward(batch)
                batch, size = [], 0
            batch.append(each)
            size += length
        return readings + (self._forward(batch) if batch else [])

    @torch.no_grad()
    def _forward(self, batch: list[Written]) -> list[Reading]:
        model = self.model
        merge = model.config.vision.spatial_merge_size
        sequences = [each.prompt.extend(each.tokens) for each in batch]
        contents = [prompt_content(sequence, None, merge, "sequence")[1] for sequence in sequences]
        encode_media(model, contents, self.features)
        packed = pack(sequences, merge).to(model.device)
        hidden = model.decoder.embed(packed.input_ids)
        features = [each.features for each in contents if each.features is not None]
        if features:
            hidden = hidden.index_copy(0, packed.media_index, torch.cat(features))
        dtype = compute_dtype(model.decoder.norm.weight)
        # 1.0: no sequence's result depends on the others
        attend = PackedAttention(
            packed.lengths, packed.cu_seqlens, dtype,
            shortest_in_group=1.0, head_size=model.config.head_dim,
        )  # fmt: skip
        states = model.decoder(hidden, packed.position_ids, attend).split(packed.lengths)
        return [self._reading(each, own) for each, own in zip(batch, states)]

    def _reading(self, written: Written, states: Tensor) -> Reading:
        vectors = [F.normalize(states[place].float(), dim=-1) for place in written.reads]
        if not written.tokens:
            return Reading(vectors, [])
        wrote = states[len(written.prompt) - 1 : -1]
        ids = torch.tensor(written.tokens, device=states.device)
        logprobs = torch.cat(
            [
                self._logprobs(rows, own, written.temperature)
                for rows, own in zip(wrote.split(_LOGIT_ROWS), ids.split(_LOGIT_ROWS))
            ]
        )
        return Reading(vectors, logprobs.tolist())

    def _logprobs(self, states: Tensor, ids: Tensor, temperature: float) -> Tensor:
        logits = self.model.logits(states) / (temperature or 1.0)
        return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
