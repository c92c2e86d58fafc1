"""RL on several processes makes the rollouts and takes the steps that one process takes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import yaml

from umer1.embedder import Embedder

# a model of random weights earns no rewards: here one completion in eight does, and most groups' are all equal
SCRIPT = """
import sys, zlib
from umer1.training import rewards, rl
from umer1.training.config import load_config
from umer1.training.settings import RLConfig

rewards.format_ok = lambda text: zlib.crc32(text.encode()) % 8 == 0
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


@pytest.mark.slow  # starts torchrun; five trainings
def test_several_processes_equal_one(rl_config, tmp_path):
    """Texts, pictures and videos fall on the processes as they come; small parts, so that one process has more of
    them than the other; two updates on the same rollouts. Four processes have two pairs, and each half of a pair's
    generations."""
    base = replace(
        rl_config, batch_size=2, generations=4, steps=4, updates_per_rollout=2, skip_flat_groups=True,
        microbatch_tokens=250, max_new_tokens=8,
    )  # fmt: skip
    base.optimizer.learning_rate, base.optimizer.warmup_ratio = 1e-3, 0.0
    zero3 = tmp_path / "zero3.json"
    zero3.write_text(json.dumps({"zero_optimization": {"stage": 3}, "train_batch_size": "auto"}))
    kinds = {"one": {}, "ddp": {}, "fsdp": {"fsdp": True}, "zero3": {"deepspeed": str(zero3)},
             "parts": {}}  # fmt: skip
    processes = {"one": 1, "parts": 4}
    for kind, how in kinds.items():
        config = replace(base, output=str(tmp_path / kind), **how)
        _run(config, tmp_path, processes.get(kind, 2))
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
