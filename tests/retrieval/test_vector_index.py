"""The index: exact results, round trips, refusals."""

import numpy as np
import pytest


@pytest.mark.parametrize("k", [1, 5, 62, 63, 100])
@pytest.mark.parametrize("mode", ["disc", "gen", "fused"])
def test_search_is_exact(index, unit, k, mode):
    queries = {"disc": unit(2, 27), "gen": unit(3, 27)}
    found = index.search(queries, k, mode)
    exact = {
        name: queries[name].astype(np.float64) @ unit(seed, 63).astype(np.float64).T
        for seed, name in enumerate(queries)
    }
    wanted = sum(exact.values()) / 2 if mode == "fused" else exact[mode]
    order = np.argsort(-wanted, axis=1)[:, :k]
    assert [[hit.number for hit in hits] for hits in found] == order.tolist()
    assert [[hit.id for hit in hits] for hits in found] == [[f"p{n}" for n in row] for row in order]
    scores = [[hit.score for hit in hits] for hits in found]
    np.testing.assert_allclose(scores, np.take_along_axis(wanted, order, 1), atol=1e-6)
    assert found[0][0].entry == {"text": f"text {order[0, 0]}"}
