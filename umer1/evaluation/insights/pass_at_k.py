"""pass@k: a query passes when any of k sampled generations retrieves a right candidate first.

Only the query is sampled; candidates are encoded once, greedily. From n samples with c right ones
the estimate is 1 - C(n - c, k) / C(n, k), the probability that k of the n drawn without replacement
hold a right one: unbiased, and of lower variance than looking at the first k. At k = n it is simply
"any of the n".
"""

from math import comb

import numpy as np


def pass_at_k(right: np.ndarray) -> dict[int, float]:
    """Mean pass@k for k = 1..n from `right`, bool [number of queries, n samples]."""
    if right.ndim != 2 or right.dtype != bool or not right.size:
        raise ValueError(
            f"right: got {right.dtype} {list(right.shape)}, need bool [queries, samples], not empty"
        )
    samples = right.shape[1]
    counts = np.bincount(right.sum(axis=1), minlength=samples + 1)
    return {
        k: sum(int(count) * estimate(samples, found, k) for found, count in enumerate(counts))
        / len(right)
        for k in range(1, samples + 1)
    }


def estimate(samples: int, right: int, k: int) -> float:
    """Unbiased pass@k of one query with `right` right ones among `samples`."""
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(
            "need 1 <= k <= samples and 0 <= right <= samples, "
            f"got k={k} samples={samples} right={right}"
        )
    return 1.0 - comb(samples - right, k) / comb(samples, k)
