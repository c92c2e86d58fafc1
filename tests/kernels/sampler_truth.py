"""What sample_tokens means, one row at a time in float64; no code of a backend."""

from __future__ import annotations

import numpy as np

MASK = 2**64 - 1


def uniform(seed: int, step: int) -> float:
    """In [0, 1): the splitmix64 finaliser in Python's integers."""
    value = (seed + (step + 1) * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return ((value ^ (value >> 31)) >> 11) * 2.0**-53


def sample(logits, seed, step, temperature=0.0, top_p=1.0, top_k=0) -> tuple[int, float, float]:
    """token, log-probability, and how far u is from the nearest edge between tokens (1 if greedy)."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = (logits - logits.max()) / (temperature or 1.0)
    mass = np.exp(shifted)
    logprob = shifted - np.log(mass.sum())
    if temperature == 0:
        token = int(logits.argmax())
        return token, float(logprob[token]), 1.0
    kept = np.zeros_like(mass)
    order = sorted(range(len(mass)), key=lambda token: (-logits[token], token))
    order = order[: top_k or None]
    wanted, before = float(np.float32(top_p)) * mass[order].sum(), 0.0
    for token in order:
        if top_p < 1 and before >= wanted:
            break
        kept[token] = mass[token]
        before += mass[token]
    edges = kept.cumsum() / kept.sum()
    u = uniform(seed, step)
    token = int(np.searchsorted(edges, u, side="right"))
    return token, float(logprob[token]), float(np.abs(edges - u).min())
