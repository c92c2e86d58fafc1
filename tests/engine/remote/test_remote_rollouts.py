"""RL's rollouts by servers: the policy's weights go there, and what comes back is what the native
engine would have written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from fake_sglang import FakeSGLang
from fake_vllm import FakeVllm
from PIL import Image

from umer1.data.records import Pair, Side
from umer1.embedder import BUNDLED
from umer1.engine import Sampling
from umer1.model.checkpoint import load_model
from umer1.processor import Processor
from umer1.training.remote_rollouts import generate_remotely
from umer1.training.rl_prompts import PromptPair
from umer1.training.rollout_share import RolloutShare
from umer1.training.rollouts import roll_out
from umer1.training.settings import RLConfig

TINY = BUNDLED["tiny"]
PICTURE = Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3))


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_rollouts_are_those_of_the_policy(kind, tmp_path):
    processor = Processor.load(TINY)
    policy = load_model(TINY, dtype=torch.float32)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)  # the servers start with other weights
    pairs = [
        PromptPair(
            place,
            processor.encode({"image": PICTURE.rotate(90 * place), "text": "what?"}, mode="gen"),
            processor.encode(f"the digit {place}", mode="gen"),
            f"record {place}",
            Pair("test", Side("what?"), Side("digit")),
        )
        for place in range(2)
    ]
    settings = {"batch_size": 2, "generations": 2, "max_new_tokens": 4}
    ours = roll_out(policy, processor, [pairs], _greedy(**settings), seed=3)
    fake = (FakeVllm if kind == "vllm" else FakeSGLang)(
        load_model(TINY, dtype=torch.float32), processor
    )
    with fake.running() as url:
        config = _greedy(rollout_engine=f"{kind}:{url}", rollout_weights=str(tmp_path), **settings)
        theirs = roll_out(policy, processor, [pairs], config, seed=3)
    assert fake.weight_version == "3" and not list(tmp_path.iterdir())
    assert len(ours.groups) == len(theirs.groups) == 4
    for one, other in zip(ours.groups, theirs.groups):
        assert [each.tolist() for each in one.completions] == [
            each.tolist() for each in other.completions
        ]
    for name in ("reward", "rank", "gap", "format"):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], abs=1e-4), name


def _greedy(**settings):
    """So that both engines write the same; training itself wants a temperature above 0."""
    config = RLConfig(data="x", **settings)
    config.temperature = 0.0
    return config


def test_a_server_that_fails_in_one_process_is_an_error_in_all(tmp_path):
    processor, policy = Processor.load(TINY), load_model(TINY, dtype=torch.float32)
    config = RLConfig(
        data="x", rollout_engine="vllm:http://127.0.0.1:9", rollout_weights=str(tmp_path)
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    share = RolloutShare.of(config, dist.group.WORLD)
    try:
        with pytest.raises(RuntimeError, match="http://127.0.0.1:9: no answer to POST /pause"):
            generate_remotely(policy, processor, [], Sampling(), config, packed=None, share=share)
    finally:
        dist.destroy_process_group()
    assert not list(tmp_path.iterdir())


def test_servers_need_a_directory_and_are_named_rightly():
    with pytest.raises(ValueError, match="rollout_weights: is empty, wants a directory"):
        RLConfig(data="x", rollout_engine="vllm:http://localhost:8000")
    for name in ("hf", "vllm"):
        with pytest.raises(ValueError, match="engine: got"):
            RLConfig(data="x", rollout_engine=name, rollout_weights="y")
