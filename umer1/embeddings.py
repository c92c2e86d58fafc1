"""What `Embedder.encode` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Embeddings:
    """Result of `Embedder.encode` for n items and k samples each (k = 1 unless asked for).

    Attributes:
        disc: float32 [n, d], L2-normalised rows; None in mode "gen".
        gen: float32 [n, d], or [n, k, d] when k > 1; None in mode "disc".
        reasoning, summary: per item the generated text (a list of k texts when k > 1).
        tokens: per item the number of generated tokens (or a list of k numbers).
        finish: per item "gen_emb" | "length" | "eos" (or a list of k).
        hit: bool [n] or [n, k]; False where no `<gen_emb>` was generated: that gen row is then the state of the
            row's own last input, which says little. Check it, or look at `finish`.
    """

    disc: np.ndarray | None = None
    gen: np.ndarray | None = None
    reasoning: list = field(default_factory=list)
    summary: list = field(default_factory=list)
    tokens: list = field(default_factory=list)
    finish: list = field(default_factory=list)
    hit: np.ndarray | None = None
