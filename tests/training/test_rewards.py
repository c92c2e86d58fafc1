"""Rewards of rollouts: parts, kinds, the length penalty."""

from dataclasses import replace

import pytest
import torch

from umer1.engine import Generated, Rollout
from umer1.training.rewards import length_reward, score
from umer1.training.settings import RLConfig

GOOD, BAD = "<think>a</think><answer>b\n<gen_emb>", "<think>a"


def generated(vectors, lengths=None, hits=None):
    hits, lengths = hits or [True] * len(vectors), lengths or [5] * len(vectors)
    rollouts = [
        Rollout([1] * length, [0.0] * length, vector, hit, "gen_emb")
        for vector, length, hit in zip(vectors, lengths, hits)
    ]
    return Generated(disc=vectors[0], rollouts=rollouts)


@pytest.fixture
def batch():
    """Two pairs, three rollouts: the first pair's first query has one good vector, one of the other pair, none."""
    axis = torch.eye(4)
    query = [
        generated([axis[0], axis[1], axis[0]], [5, 60, 100], [True, True, False]),
        generated([axis[1]] * 3),
    ]
    target = [generated([axis[0]] * 3), generated([axis[1]] * 3)]
    texts = [[[GOOD, GOOD, BAD], [GOOD] * 3], [[GOOD] * 3, [GOOD] * 3]]
    return query, target, texts


def test_parts_add_up_and_a_missing_vector_scores_nothing(batch):
    """Hazard H15: the release reads the prompt's own `<gen_emb>` for a completion that never wrote one."""
    found = score(*batch, RLConfig())
    assert found.format[0, 0].tolist() == [1, 1, 0]
    assert found.rank[0, 0].tolist() == pytest.approx([1, 0, 0])
    assert found.gap[0, 0].tolist() == pytest.approx([1, -1, 0])
    assert found.total[0, 0].tolist() == pytest.approx([2, 1, 0])  # 1 + 1 * 1, 1 + 0 * -1, 0 + 0
    # the advantage is of its own group: unbiased std, + 1e-4
    assert found.advantage[0, 0].tolist() == pytest.approx([1 / 1.0001, 0, -1 / 1.0001])
    # targets of pair 1 meet one of their two valid queries' vectors in the other pair
    assert found.flat.tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    "kind, wanted",
    [
        ("rank", [1, 0, 0]),
        ("gap", [1, -1, 0]),
        # shares of similarities on the right side of 0.5
        ("threshold", [1, 0, 0]),
        # positives have mean (3 + 0 + 9) / 15, negatives (0 + 3 + 0) / 15 of the valid ones: threshold 0.5 too
        ("adaptive_threshold", [1, 0, 0]),
    ],
)
def test_other_kinds(batch, kind, wanted):
    found = score(*batch, RLConfig(reward=kind, format_weight=0.0))
    assert found.total[0, 0].tolist() == pytest.approx(wanted)


def test_length_penalty_is_zero_up_to_the_buffer_and_minus_one_at_the_limit(batch):
    written = torch.tensor([1, 80, 81, 90, 100])
    assert length_reward(written, 100, 20).tolist() == pytest.approx([0, 0, -0.05, -0.5, -1])
    config = RLConfig(max_new_tokens=100, length_penalty=0.5, length_buffer=80)
    plain = score(*batch, replace(config, length_penalty=0.0)).total[0, 0]
    got = score(*batch, config).total[0, 0]
    assert (got - plain).tolist() == pytest.approx([0, -0.5 * 40 / 80, -0.5])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(reward="best"), "reward: got 'best'"),
        (dict(reference="none"), "reference: got 'none'"),
        (dict(length_penalty=1.0, length_buffer=4096), "length_buffer: got 4096"),
        (dict(updates_per_rollout=2, steps=5), "divisor of steps 5"),
        (dict(updates_per_rollout=0), "updates_per_rollout: got 0"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        RLConfig(**wrong)
