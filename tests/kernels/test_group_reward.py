"""group_reward against the released per-row loop, its edge cases, and the advantage."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1_kernels import group_reward


def rollouts(pairs, size, dimension=16, dtype=torch.float32):
    """Vectors of one pair lie near each other, so that ranks differ."""
    centre = torch.randn(pairs, 1, dimension, dtype=dtype)
    return F.normalize(centre + 0.9 * torch.randn(pairs, size, dimension, dtype=dtype), dim=2)


def released_reward(query, target):
    """R_emb of every query rollout, one row at a time, as UME-R1's trainer computes it."""
    pairs, size, _ = query.shape
    rewards = torch.zeros(pairs, size)
    for g in range(pairs):
        for i in range(size):
            positive = [(query[g, i] @ target[g, j]).item() for j in range(size)]
            negative = [
                (query[g, i] @ target[p, j]).item()
                for p in range(pairs)
                for j in range(size)
                if p != g
            ]
            top = sorted(range(pairs * size), key=lambda k: -(positive + negative)[k])[:size]
            rank = sum(k < size for k in top) / size
            rewards[g, i] = rank * (sum(positive) / size - sum(negative) / len(negative))
    return rewards


@pytest.mark.parametrize("shape", [(16, 8), (3, 4), (2, 1), (5, 3)], ids=str)
def test_equals_the_released_loop(backend, shape):
    query, target = rollouts(*shape), rollouts(*shape)
    target = F.normalize(query.mean(1, keepdim=True) + 0.5 * target, dim=2)
    result = group_reward(query, target, backend=backend)
    assert torch.allclose(result.query_reward, released_reward(query, target), atol=1e-5)
    assert torch.allclose(result.target_reward, released_reward(target, query), atol=1e-5)
    assert torch.allclose(
        result.rank * result.gap, torch.stack([result.query_reward, result.target_reward])
    )


def test_advantage_is_unbiased_and_per_group(backend):
    query, target = rollouts(4, 8), rollouts(4, 8)
    result = group_reward(query, target, kind="gap", backend=backend)
    reward = result.query_reward
    expected = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(result.query_advantage, expected, atol=1e-5)
    assert torch.allclose(result.query_advantage.mean(1), torch.zeros(4), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_backends_agree(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    pairs, size = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    kind = data.draw(
        st.sampled_from(["rank_gap", "rank", "gap", "threshold", "adaptive_threshold"])
    )
    # a coarse grid makes ties
    query, target = (torch.randint(-2, 3, (pairs, size, 3)).double() / 2 for _ in range(2))
    share = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    valid = {name: torch.rand(pairs, size) >= share for name in ("query_valid", "target_valid")}
    one, other = (
        group_reward(query, target, kind=kind, backend=backend, **valid)
        for backend in ("cpu", "reference")
    )
    for got, expected in zip(one, other):
        assert torch.allclose(got, expected, atol=1e-9)


def test_ties_go_to_the_negatives(backend):
    """All vectors alike: every similarity ties, nothing ranks, whatever the order of the pairs."""
    same = torch.ones(3, 4, 5) / 5**0.5
    result = group_reward(same, same, backend=backend)
    assert (result.rank == 0).all() and (result.query_reward == 0).all()


def test_order_of_pairs_and_rollouts_does_not_matter(backend):
    query, target = (torch.randint(-1, 2, (5, 4, 3)).double() for _ in range(2))  # many ties
    pairs, own, other = torch.randperm(5), torch.randperm(4), torch.randperm(4)
    one = group_reward(query, target, backend=backend)
    shuffled = group_reward(query[pairs][:, own], target[pairs][:, other], backend=backend)
    assert torch.allclose(one.query_reward[pairs][:, own], shuffled.query_reward)
    assert torch.allclose(one.target_reward[pairs][:, other], shuffled.target_reward)


def test_invalid_rollouts_are_left_out_of_everything(backend):
    """Hazard H15: no vector, no reward, and no influence on others, whatever its row holds."""
    query, target = rollouts(4, 3), rollouts(4, 3)
    target = F.normalize(query.mean(1, keepdim=True) + 0.5 * target, dim=2)
    query_valid, target_valid = (torch.ones(4, 3, dtype=torch.bool) for _ in range(2))
    query_valid[0, 1] = target_valid[2, 0] = target_valid[2, 2] = target_valid[3] = False
    flags = {"query_valid": query_valid, "target_valid": target_valid}
    result = group_reward(query, target, backend=backend, **flags)

    poisoned_query = query.masked_fill(~query_valid[..., None], float("nan"))
    poisoned_target = target.masked_fill(~target_valid[..., None], float("inf"))
    for kind in ("rank_gap", "adaptive_threshold"):
        clean = group_reward(query, target, kind=kind, backend=backend, **flags)
        poisoned = group_reward(
            poisoned_query, poisoned_target, kind=kind, backend=backend, **flags
        )
        for one, other in zip(clean, poisoned):
            assert torch.equal(one, other) and not one.isnan().any()

    assert result.query_reward[0, 1] == 0 and result.rank[0, 0, 1] == 0 and result.gap[0, 0, 1] == 0
    assert (result.query_reward[3] == 0).all()  # its pair has no valid target
    assert (result.target_reward[3] == 0).all()
    # pair 2, query side: one positive is left; rank is over that one
    similarity = query[2] @ target[target_valid].T
    positive = (query[2] @ target[2, 1])[:, None]
    nearest = (similarity > positive).sum(1) == 0
    assert torch.equal(result.rank[0, 2], nearest.float())
    # the group's mean and std keep the zero of the invalid rollout
    reward = result.query_reward[0]
    expected = (reward - reward.mean()) / (reward.std() + 1e-4)
    assert torch.allclose(result.query_advantage[0], expected, atol=1e-5)


def test_one_pair_or_one_rollout(backend):
    """Without negatives there is nothing to rank; without siblings there is no advantage."""
    one_pair = group_reward(rollouts(1, 4), rollouts(1, 4), backend=backend)
    assert all((value == 0).all() for value in one_pair)
    alone = group_reward(rollouts(4, 1), rollouts(4, 1), kind="gap", backend=backend)
    assert (alone.query_reward != 0).any() and (alone.query_advantage == 0).all()


def test_threshold_kinds(backend):
    query, target = rollouts(4, 3, dtype=torch.float64), rollouts(4, 3, dtype=torch.float64)
    flat_query, flat_target = query.reshape(12, -1), target.reshape(12, -1)
    similarity = flat_query @ flat_target.T
    own = torch.block_diag(*[torch.ones(3, 3)] * 4).bool()
    middle = (similarity[own].mean() + similarity[~own].mean()) / 2
    for kind, threshold in (("threshold", 0.5), ("adaptive_threshold", middle)):
        above = (similarity >= threshold).double()
        share = ((above * own).sum(1) / 3 + ((1 - above) * ~own).sum(1) / 9) / 2
        result = group_reward(query, target, kind=kind, backend=backend)
        assert torch.allclose(result.query_reward.reshape(12), share)


def test_bfloat16_vectors_and_no_gradient(backend):
    query = rollouts(3, 4).bfloat16().requires_grad_()
    result = group_reward(query, query.detach(), backend=backend)
    wide = group_reward(query.detach().float(), query.detach().float(), backend=backend)
    assert all(torch.equal(one, other) for one, other in zip(result, wide))
    assert result.query_reward.dtype == torch.float32 and not result.query_reward.requires_grad


def test_strided_vectors(backend):
    wide = torch.randn(4, 6, 10)
    one = group_reward(wide[:, ::2, ::2], wide[:, 1::2, 1::2], backend=backend)
    other = group_reward(
        wide[:, ::2, ::2].contiguous(), wide[:, 1::2, 1::2].contiguous(), backend="reference"
    )
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(one, other))


BAD = {
    "query has shape": lambda q: group_reward(q[0], q),
    "target has shape": lambda q: group_reward(q, q[:2]),
    "kind": lambda q: group_reward(q, q, kind="ranks"),
    "query_valid has shape": lambda q: group_reward(
        q, q, query_valid=torch.ones(3, dtype=torch.bool)
    ),
    "target_valid has dtype": lambda q: group_reward(q, q, target_valid=torch.ones(3, 4)),
    "no dimension may be 0": lambda q: group_reward(q[:0], q[:0]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message](torch.randn(3, 4, 5))
