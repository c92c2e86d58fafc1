"""The oracle: per query, whichever of the disc and gen embedding ranks better.

It bounds what a router that picks one of the two per instance could reach. Queries and candidates
are in the same mode, as in the two runs it is built from, and "better" is the task's main metric.
"""

import numpy as np


def oracle(disc: np.ndarray, gen: np.ndarray) -> np.ndarray:
    """Per-query main metric of the oracle: disc, gen and the result are float64 [number of
    queries].
    """
    if disc.shape != gen.shape:
        raise ValueError(
            f"disc has {len(disc)} queries, gen has {len(gen)}; both must score the same task"
        )
    return np.maximum(disc, gen)
