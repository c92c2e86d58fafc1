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


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, dict(fsdp=True, updates_per_rollout=2, steps=4)])
def test_two_processes_equal_one(rl_config, tmp_path, options):
    """Texts, pictures and videos fall on the processes as they come; small parts, so that one process has more of
    them than the other."""
    one = replace(
        rl_config,
        **{"steps": 2, "skip_flat_groups": True, "microbatch_tokens": 250, **options},
        output=str(tmp_path / "one"),
    )
    one.optimizer.learning_rate, one.optimizer.warmup_ratio = 1e-3, 0.0
    _run(replace(one, fsdp=False), tmp_path, 1)
    _run(replace(one, output=str(tmp_path / "two")), tmp_path, 2)
    wanted = Embedder.load(tmp_path / "one" / "model", device="cpu")
    got = Embedder.load(tmp_path / "two" / "model", device="cpu").model.state_dict()
    for name, weight in wanted.model.state_dict().items():
        torch.testing.assert_close(got[name], weight, atol=1e-4, rtol=0, msg=name)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "rl_metrics.jsonl").open()]
        for name in ("one", "two")
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]  # written once
    timed = ("seconds", "per_second", "packed_tokens", "memory")
    assert 0 < logs[0][0]["flat_groups"] < 1 and logs[0][0]["gradient_norm"] > 0
    for row, other in zip(*logs):
        for name in row:
            if not any(word in name for word in timed):
                assert other[name] == pytest.approx(row[name], rel=1e-3, abs=1e-6), name
