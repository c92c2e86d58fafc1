"""RL on two processes makes the rollouts and takes the steps that one process takes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import yaml

from umer1.embedder import Embedder

# a model of random weights earns no rewards: these differ, and every other group's are all equal
SCRIPT = """
import sys, torch
from umer1.training import rl, rollouts
from umer1.training.config import load_config
from umer1.training.objectives import group_advantage
from umer1.training.settings import RLConfig

score = rollouts.score

def noisy(query, target, *rest):
    found = score(query, target, *rest)
    total = torch.tensor([
        [[sum(each.tokens) % 7 / 7 * (row.rollouts[0].tokens[0] % 2) for each in row.rollouts]
         for row in side] for side in (query, target)
    ])
    advantage = torch.stack([group_advantage(side) for side in total])
    return found._replace(total=total, advantage=advantage, flat=total.std(2) < 1e-6)

rollouts.score = noisy
rl.run(load_config(sys.argv[1], RLConfig), progress=False)
"""


def _run(config, tmp_path, processes):
    values = asdict(config)
    values["optimizer"]["betas"] = list(values["optimizer"]["betas"])
    values["clip"] = list(values["clip"])
    path = tmp_path / f"{processes}.yaml"
    path.write_text(yaml.safe_dump(values))
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone",
               str(script), str(path)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.slow  # starts torchrun; four trainings
def test_two_processes_equal_one(rl_config, tmp_path):
    """Texts, pictures and videos fall on the processes as they come; small parts, so that one process has more of
    them than the other; two updates on the same rollouts."""
    base = replace(
        rl_config, steps=4, updates_per_rollout=2, skip_flat_groups=True, microbatch_tokens=250
    )
    base.optimizer.learning_rate, base.optimizer.warmup_ratio = 1e-3, 0.0
    zero3 = tmp_path / "zero3.json"
    zero3.write_text(json.dumps({"zero_optimization": {"stage": 3}, "train_batch_size": "auto"}))
    kinds = {"one": {}, "ddp": {}, "fsdp": {"fsdp": True}, "zero3": {"deepspeed": str(zero3)}}
    for kind, how in kinds.items():
        config = replace(base, output=str(tmp_path / kind), **how)
        _run(config, tmp_path, 1 if kind == "one" else 2)
        got = Embedder.load(tmp_path / kind / "model", device="cpu").model.state_dict()
        log = [json.loads(line) for line in (tmp_path / kind / "rl_metrics.jsonl").open()]
        if kind == "one":
            wanted, rows = got, log
            assert 0 < rows[0]["flat_groups"] < 1 and rows[0]["gradient_norm"] > 0
            continue
        for name, weight in wanted.items():
            torch.testing.assert_close(got[name], weight, atol=1e-4, rtol=0, msg=f"{kind}: {name}")
        timed = ("seconds", "per_second", "packed_tokens", "memory", "real_token_share")
        for row, other in zip(rows, log, strict=True):  # each step is written once
            for name in row:
                if not any(word in name for word in timed):
                    close = pytest.approx(row[name], rel=1e-3, abs=1e-6)
                    assert other[name] == close, f"{kind}: {name}"
