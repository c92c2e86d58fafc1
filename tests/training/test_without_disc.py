"""`discriminative: false`: the generative losses alone, for the table of ablations."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from umer1.training.contrastive import Contrast
from umer1.training.settings import SFTConfig


def test_the_gen_term_is_left_and_disc_vectors_get_a_gradient_of_zero():
    gen, disc = (F.normalize(torch.randn(6, 16), dim=1).requires_grad_() for _ in range(2))
    rows, none = torch.arange(3), torch.zeros(0, dtype=torch.int64)
    batch = SimpleNamespace(
        query_rows=rows, target_rows=rows + 3, negative_rows=none, pair_ids=rows, negative_ids=none
    )
    both = Contrast.of(SFTConfig())(gen, disc, batch)
    alone = Contrast.of(SFTConfig(discriminative=False))(gen, disc, batch)
    assert float(alone.total.detach()) == pytest.approx(float(both.gen), rel=1e-6)
    assert float(alone.disc) == 0 and float(both.disc) > 0
    slopes = torch.autograd.grad(alone.total, [gen, disc])
    assert slopes[0].abs().max() > 1e-3 and torch.equal(slopes[1], torch.zeros_like(disc))


@pytest.mark.parametrize("others", [dict(generative=False), dict(align_weight=1.0)])
def test_settings_that_leave_nothing_are_refused(others):
    with pytest.raises(ValueError, match="discriminative: false wants"):
        SFTConfig(discriminative=False, **others)
