"""Estimated tokens of every pair, for the processor that will encode them."""

from __future__ import annotations

import numpy as np

from umer1.data.estimates import BYTES_PER_TOKEN, TokenRates, text_bytes
from umer1.data.store import PairStore
from umer1.processor import Processor
from umer1.prompts import check_text

SAMPLE = 64  # pairs whose text is tokenised; a tokenizer made from the data writes whole sentences as one token


def estimated_lengths(pairs: PairStore, processor: Processor) -> np.ndarray:
    """int32 [N], of both sides together: media at the processor's limits, text as its tokenizer writes a
    sample of it. The same in every process and in a resumed run."""
    return pairs.lengths_at(TokenRates.of(processor.limits, _bytes_per_token(pairs, processor)))


def _bytes_per_token(pairs: PairStore, processor: Processor) -> float:
    size = tokens = 0
    for number in np.linspace(0, len(pairs) - 1, min(SAMPLE, len(pairs))).astype(int).tolist():
        try:
            pair = pairs[number]
            for side in (pair.query, pair.target):
                for text in (side.text, side.response or ""):
                    check_text(text, "text")
                    size, tokens = (
                        size + text_bytes(text),
                        tokens + len(processor.text.encode(text)),
                    )
        except ValueError:  # training will name what is wrong with it, or skip it
            continue
    return size / tokens if tokens else BYTES_PER_TOKEN
