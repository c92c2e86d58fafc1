"""How rollouts of two engines are compared."""

from __future__ import annotations

import math

import torch


def by_place(finished):
    return {(each.prompt, each.sample): each for each in finished}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        torch.testing.assert_close(one.disc, other.disc, atol=1e-4, rtol=0)
        if one.rollout is None:
            assert other.rollout is None
            continue
        for name in ("tokens", "hit", "finish"):
            assert getattr(one.rollout, name) == getattr(other.rollout, name), (key, name)
        torch.testing.assert_close(one.rollout.vector, other.rollout.vector, atol=1e-4, rtol=0)
        known = [
            pair
            for pair in zip(one.rollout.logprobs, other.rollout.logprobs, strict=True)
            if not math.isnan(pair[1])
        ]
        assert all(abs(ours - theirs) < 1e-4 for ours, theirs in known), key


def prompts_of(server):
    """Token ids that the server was asked to go on after."""
    bodies = [body for path, body in server.calls if "generate" in path]
    return [
        body["token_ids"] if "token_ids" in body else body["instances"][0]["input_ids"]
        for body in bodies
    ]
