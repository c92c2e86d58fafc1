"""SFT on two processes takes the steps that one process takes."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import yaml

from umer1.embedder import Embedder
from umer1.training import sft


def test_two_processes_equal_one(sft_config, tmp_path):
    one = replace(sft_config, sources="pictures,videos", output=str(tmp_path / "one"), seed=0)
    wanted = Embedder.load(sft.run(one, progress=False), device="cpu").model.state_dict()
    two = asdict(replace(one, output=str(tmp_path / "two")))
    two["optimizer"]["betas"] = list(two["optimizer"]["betas"])
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               "-m", "umer1.cli", "train", "sft", "--quiet", "--config", str(tmp_path / "two.yaml")]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr[-2000:]
    got = Embedder.load(tmp_path / "two" / "model", device="cpu").model.state_dict()
    for name, weight in wanted.items():
        torch.testing.assert_close(got[name], weight, atol=2e-4, rtol=0, msg=name)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "sft_metrics.jsonl").open()]
        for name in ("one", "two")
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]  # written once
    for row, other in zip(*logs):
        assert other["gen"] == pytest.approx(
            row["gen"], rel=1e-3
        )  # the global loss, not a share of it
        assert other["disc"] == pytest.approx(row["disc"], rel=1e-3)
