"""A patched model in a Trainer, on several processes, and compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tiny_qwen import assert_same, gradients, qwen2, text_batch  # noqa: E402

from umer1_kernels import apply_umer1_kernels  # noqa: E402


@pytest.mark.slow
def test_compiled_as_one_graph():
    model, inputs = qwen2(), text_batch()
    apply_umer1_kernels(model)
    expected = model(**inputs).loss
    expected_grads = gradients(model, expected)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss = compiled(**inputs).loss
    assert torch.allclose(loss, expected)
    assert_same(gradients(model, loss), expected_grads)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["ddp", "fsdp", "fsdp with its own head"])
def test_on_two_processes(how, tmp_path):
    """Averaged gradients under DistributedDataParallel and fully_shard, tied head included."""
    script = Path(__file__).with_name("apply_cases.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, how, str(rank), "2", tmp_path / "store"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output


@pytest.mark.timeout(120)
def test_trainer_with_accumulation(tmp_path):
    """Two optimiser steps of three uneven micro-batches each: the same weights with and without."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    rows = [
        {
            name: value[0]
            for name, value in text_batch(rows=1, length=4 + 3 * (n % 4), seed=n).items()
        }
        for n in range(6)
    ]

    def train(patched):
        model = qwen2()
        if patched:
            apply_umer1_kernels(model)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=2, use_cpu=True,
            gradient_accumulation_steps=3, learning_rate=1e-2, report_to=[], save_strategy="no",
            optim="sgd", lr_scheduler_type="constant", logging_steps=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return model, losses

    (plain, plain_losses), (ours, our_losses) = train(False), train(True)
    assert our_losses == pytest.approx(plain_losses, abs=1e-4) and len(our_losses) == 2
    start = dict(qwen2().named_parameters())
    for name, value in plain.named_parameters():
        moved = (value - start[name]).abs().max()
        assert (dict(ours.named_parameters())[name] - value).abs().max() < 1e-4 * moved + 1e-7, name
