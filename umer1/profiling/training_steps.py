"""One step of each training stage as a workload, on a synthetic batch of stated sizes.

What a step does is what `umer1.training.sft` and `.rl` do between two batches, with their own functions; the learning
rate is 0, so that every step finds the same weights, and RL the same rollouts.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from torch import Tensor

from umer1.data.records import Pair, Side
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.profiling.generation import TEXT_IDS, synthetic_prompt
from umer1.profiling.ranges import model_stages, stage
from umer1.profiling.request import Request
from umer1.profiling.workload import Workload
from umer1.training import rl
from umer1.training.collate import IGNORED, EncodedSide, SFTBatch, collate_sft
from umer1.training.loop import make_optimizer
from umer1.training.objectives import sft_loss
from umer1.training.rollouts import roll_out
from umer1.training.settings import OptimizerConfig, RLConfig, RunConfig, SFTConfig
from umer1.training.start import start

STILL = OptimizerConfig(learning_rate=0.0)
MIXED = {"float32": "no", "bfloat16": "bf16"}


def build_sft_step(request: Request) -> Workload:
    """Forward of both sides, losses, backward, optimizer."""
    config = SFTConfig(model=request.model, freeze_vision=False, optimizer=STILL)
    policy, processor = start(config, [])
    model, optimizer, accelerator = _prepared(request, config, policy)
    merge = policy.config.vision.spatial_merge_size
    batch = synthetic_batch(policy, processor, request.sizes, merge).to(accelerator.device)

    def run() -> None:
        with model_stages(policy), stage("forward"):
            hidden = model(batch.packed)
        with stage("losses"):
            loss = sft_loss(
                hidden,
                policy.head_weight,
                batch,
                gen_id=processor.gen_id,
                disc_id=processor.disc_id,
                scale=config.scale,
            )
        with stage("backward"):
            accelerator.backward(loss.total)
        with stage("optimizer"):
            accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    tokens = len(batch.packed.input_ids)
    about = [f"model {request.model}, {len(batch.query_rows)} pairs, {tokens} packed tokens"]
    return Workload(run, getattr(torch, request.dtype), about)


def build_rl_step(request: Request) -> Workload:
    """Rollouts and rewards of both sides, then one update: both stages of the step apart."""
    sizes = request.sizes
    config = RLConfig(
        model=request.model,
        batch_size=sizes["pairs"],
        generations=sizes["generations"],
        max_new_tokens=sizes["new"],
        rollout_slots=2 * sizes["pairs"] * sizes["generations"],
        freeze_vision=False,
        optimizer=STILL,
    )
    policy, processor = start(config, [])
    reference = copy.deepcopy(policy).requires_grad_(False).eval().to(request.device)
    model, optimizer, accelerator = _prepared(request, config, policy)
    pairs = [
        Pair("synthetic", Side(f"What is {number} plus {number}?"), Side(str(2 * number)))
        for number in range(sizes["pairs"])
    ]

    def backward(loss: Tensor) -> None:
        with stage("backward"):
            accelerator.backward(loss)

    parts = SimpleNamespace(device=accelerator.device, backward=backward)
    lengths: list[float] = []

    def run() -> None:
        with model_stages(policy), model_stages(reference, "reference"):
            with stage("rollouts"):
                batch = roll_out(policy, processor, pairs, config, seed=0)
            with stage("update"):
                rl._learn(model, policy, reference, batch.completions, config, parts, 1)
        with stage("optimizer"):
            accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        lengths.append(batch.metrics["completion_tokens"])

    run()
    about = [
        f"model {request.model}, {2 * sizes['pairs'] * sizes['generations']} rollouts of "
        f"{lengths[0]:.1f} tokens on average"
    ]
    return Workload(run, getattr(torch, request.dtype), about)


def synthetic_batch(
    model: Qwen2VL, processor: Processor, sizes: dict[str, int], merge: int
) -> SFTBatch:
    """Pairs whose queries hold an image and whose targets are text; no two sides are equal."""

    def side(number: int, visual_tokens: int) -> EncodedSide:
        prompt = synthetic_prompt(model.config, sizes["tokens"] - 1, visual_tokens, number)
        generator = torch.Generator().manual_seed(-1 - number)
        words = torch.randint(TEXT_IDS, (sizes["response"] - 2,), generator=generator)
        ends = torch.tensor([processor.gen_id, processor.eos_id])
        sequence = prompt.extend([processor.disc_id]).extend(torch.cat([words, ends]))
        labels = sequence.input_ids.clone()
        begin = len(prompt) + 1
        labels[:begin] = IGNORED
        return EncodedSide((number,), sequence, labels, begin)

    pairs = [
        (side(2 * number, sizes["image"]), side(2 * number + 1, 0))
        for number in range(sizes["pairs"])
    ]
    return collate_sft(pairs, merge)


def _prepared(request: Request, config: RunConfig, policy: Qwen2VL):
    """What accelerate makes of the model and its optimizer, as both trainers begin."""
    accelerator = Accelerator(cpu=request.device == "cpu", mixed_precision=MIXED[request.dtype])
    optimizer = make_optimizer(policy, config)
    model, optimizer = accelerator.prepare(policy.train(), optimizer)
    return model, optimizer, accelerator
