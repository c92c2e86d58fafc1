"""The sampler's bench compares tokens only where float32 probabilities decide which one it is."""

from dataclasses import replace

import pytest
import torch

from bench.case import errors, step
from bench.suites.sampler import FROM_AN_EDGE, KINDS, Sampler
from umer1_kernels.reference.sampler import uniforms


@pytest.fixture
def case():
    return Sampler(name="", dtype=torch.float32, rows=64, vocabulary=500)


def test_a_row_next_to_an_edge_is_not_compared(case):
    """The last of four rows draws a number that lies on the edge between tokens 0 and 1 but for 1e-8."""
    seed, place = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    share = uniforms(seed, place)[-1] + 1e-8
    logits = torch.stack([share, 1 - share]).log().expand(4, 2)
    problem = replace(case, rows=4, vocabulary=2).build(torch.device("cpu"))
    problem.inputs = {"logits": logits, "seed": seed, "step": place}
    case = replace(case, vocabulary=2)
    expected = case.truth(problem)
    assert expected["output"].index[1].tolist() == [0, 1, 2]
    result = case.eager(**problem.inputs)
    assert errors({"output": result}, expected)["output"] < 1e-6
    result[0, 3] = 0.5 - result[0, 3]  # the other token
    assert errors({"output": result}, expected)["output"] < 1e-6
    result[0, 2] = 0.5 - result[0, 2]
    assert errors({"output": result}, expected)["output"] > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_most_rows_are_compared(case, kind):
    case = replace(case, **KINDS[kind])
    problem = case.build(torch.device("cpu"))
    expected = case.truth(problem)
    assert len(expected["output"].index[1]) >= 60
    ours, *_ = case.variants(torch.device("cpu"))
    assert errors(step(ours.function, problem), expected)["output"] < 1e-5


def test_an_edge_of_top_p_counts_if_its_token_does(case):
    """Half of the probability on token 0: at top-p 0.5 rounding decides whether token 1 is kept."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().double()
    seed = torch.zeros(1, dtype=torch.int64)
    distance = lambda top_p: replace(case, top_p=top_p)._distance_to_an_edge(logits, seed, seed)
    assert distance(0.5) < FROM_AN_EDGE < distance(0.6)
