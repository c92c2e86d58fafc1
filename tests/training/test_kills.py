"""kill -9 at any moment, then the same command again: the run is the one that was never killed, bit for bit."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from umer1.embedder import Embedder
from umer1.training import loop, sft


def _curve(folder):
    return [
        (row["step"], row["total"], row["gradient_norm"])
        for row in map(json.loads, (Path(folder) / "sft_metrics.jsonl").open())
    ]


def _assert_same_run(got, wanted):
    assert _curve(got) == _curve(wanted)
    first, second = (
        Embedder.load(Path(each) / "model", device="cpu").model.state_dict()
        for each in (got, wanted)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def _killed_at(config, step):
    """In a child process: -9 when the losses of `step` are there, its update not yet taken."""
    update = loop.Run.update

    def dying(self, *arguments):
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *arguments)

    loop.Run.update = dying
    sft.run(config, progress=False)


def test_a_process_that_was_killed_goes_on_exactly(sft_config, tmp_path):
    whole = replace(sft_config, sources="texts", batch_size=4, steps=5, save_every=2,
                    output=str(tmp_path / "whole"))  # fmt: skip
    sft.run(whole, progress=False)
    killed = replace(whole, output=str(tmp_path / "killed"))
    child = multiprocessing.get_context("fork").Process(target=_killed_at, args=(killed, 4))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed/checkpoints/sft").iterdir()) == [
        "step-00000002"
    ]
    sft.run(killed, progress=False)
    _assert_same_run(killed.output, whole.output)


@pytest.mark.slow  # a dozen starts of the command
def test_killed_again_and_again_from_outside(sft_config, tmp_path):
    """At random moments, whatever the process is doing, saving included."""
    whole = replace(sft_config, steps=60, save_every=3, output=str(tmp_path / "whole"))
    sft.run(whole, progress=False)
    settings = asdict(replace(whole, output=str(tmp_path / "killed")))
    settings["optimizer"]["betas"] = list(settings["optimizer"]["betas"])
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "umer1.cli", "train", "sft", "--quiet", "--config", str(path)]
    chance, kills = random.Random(7), 0
    metrics = tmp_path / "killed" / "sft_metrics.jsonl"
    for _ in range(30):
        before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wanted = before + chance.randint(1, 12) if kills < 6 else 10**9
        while process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= wanted:
                time.sleep(chance.random() * 0.1)
                process.kill()
                kills += 1
                break
            time.sleep(0.005)
        output = process.communicate()[0].decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output[-2000:]
    assert process.returncode == 0 and kills >= 4
    _assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow  # starts torchrun
def test_sigterm_to_torchrun_saves_and_the_run_goes_on(sft_config, tmp_path):
    config = replace(sft_config, sources="pictures,videos", steps=400, output=str(tmp_path / "out"))
    settings = asdict(config)
    settings["optimizer"]["betas"] = list(settings["optimizer"]["betas"])
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               "-m", "umer1.cli", "train", "sft", "--quiet", "--config", str(tmp_path / "two.yaml")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    metrics = tmp_path / "out" / "sft_metrics.jsonl"
    until = time.monotonic() + 300
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=300)[0].decode()
    assert "stopped by SIGTERM at step" in output, output[-3000:]
    (folder,) = (tmp_path / "out/checkpoints/sft").iterdir()
    step = json.loads((folder / "run.json").read_text())["step"]
    # one process goes on from what two have written, with the same batches
    sft.run(replace(config, steps=400, time_limit_seconds=0.001), progress=False)
    assert len(_curve(tmp_path / "out")) == step
