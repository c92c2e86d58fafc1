"""How sure a score list looks, whatever the scale of its scores: the signals of the routers.

Similarities of disc and gen vectors are spread differently, so every signal is free of scale or a
probability. Scores are float [..., C]; the last axis holds the candidates, in any order.
"""

import numpy as np

TEMPERATURE = 0.02  # that of the contrastive losses
NEAR = 5


def lead(scores: np.ndarray) -> np.ndarray:
    """(first - second) / standard deviation of the list; 0 for lists of one or of equal scores."""
    ordered = _descending(scores)
    if scores.shape[-1] < 2:
        return np.zeros(scores.shape[:-1])
    return _divide(ordered[..., 0] - ordered[..., 1], ordered.std(axis=-1))


def prominence(scores: np.ndarray) -> np.ndarray:
    """(first - mean) / standard deviation of the list."""
    ordered = _descending(scores)
    return _divide(ordered[..., 0] - ordered.mean(axis=-1), ordered.std(axis=-1))


def step(scores: np.ndarray) -> np.ndarray:
    """(first - mean of the five that follow) / standard deviation of the list."""
    ordered = _descending(scores)
    if scores.shape[-1] < 2:
        return np.zeros(scores.shape[:-1])
    following = ordered[..., 1 : 1 + NEAR].mean(axis=-1)
    return _divide(ordered[..., 0] - following, ordered.std(axis=-1))


def certainty(scores: np.ndarray) -> np.ndarray:
    """1 - entropy / log C of softmax(scores / 0.02): 1 for all on one candidate, 0 for uniform."""
    count = scores.shape[-1]
    if count < 2:
        return np.zeros(scores.shape[:-1])
    shifted = (scores - scores.max(axis=-1, keepdims=True)).astype(np.float64) / TEMPERATURE
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    entropy = np.log(total) - (weights * shifted).sum(axis=-1) / total
    return 1 - entropy / np.log(count)


SIGNALS = {"lead": lead, "prominence": prominence, "step": step, "certainty": certainty}


def signals(scores: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Signal -> float64 [N] of N score lists, which may differ in length."""
    return {
        name: np.array([float(signal(own)) for own in scores]) for name, signal in SIGNALS.items()
    }


def _descending(scores):
    return -np.sort(-scores.astype(np.float64), axis=-1)


def _divide(value, by):
    return np.divide(value, by, out=np.zeros_like(value), where=by > 0)
