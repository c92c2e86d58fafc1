"""The engine on the Triton kernels, under their interpreter: run by test_engine_triton.py in a process of its own."""

import pytest
import torch

from umer1.engine import NativeEngine, Sampling, SpecialTokens

SPECIAL = SpecialTokens(7, 39, (3, 4))
TRUNCATED = Sampling(4, temperature=1.0, seed=2, top_p=0.9, top_k=7, max_think_tokens=1)


@pytest.mark.parametrize("sampling, samples", [(Sampling(5), 1), (TRUNCATED, 2)])
def test_rollouts_equal_those_on_the_other_kernels(model, make_prompts, sampling, samples):
    found = []
    for backend in ("auto", "triton"):
        engine = NativeEngine(model, SPECIAL, slots=3, backend=backend)
        engine.stepper.late = backend == "triton"  # as on CUDA
        results = engine.submit(make_prompts(4), sampling, samples=samples)
        found.append({(each.prompt, each.sample): each.rollout for each in results})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 4 * samples
    for key, one in found[0].items():
        other = found[1][key]
        assert (one.tokens, one.hit, one.finish) == (other.tokens, other.hit, other.finish)
        torch.testing.assert_close(one.vector, other.vector, atol=1e-5, rtol=0)
