"""One step of each training stage as a workload, on a synthetic batch of stated sizes.

What a step does is what `umer1.training.sft` and `.rl` do between two batches, with their own functions; the learning
rate is 0, so that every step finds the same weights, and RL the same rollouts.
"""

from __future__ import annotations

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
from umer1.training.alone import Alone
from umer1.training.collate import SFTBatch, collate_sft
from umer1.training.contrastive import Contrast
from umer1.training.encoded import IGNORED, EncodedPair, EncodedSide
from umer1.training.grad_cache import SFTObjective, add_gradients
from umer1.training.loop import make_optimizer
from umer1.training.policy_forward import Objective
from umer1.training.policy_update import learn, make_parts
from umer1.training.reference_policy import ReferencePolicy
from umer1.training.rl_prompts import PromptEncoder, PromptPair
from umer1.training.rollout_pack import can_share
from umer1.training.rollouts import roll_out
from umer1.training.settings import OptimizerConfig, RLConfig, RunConfig, SFTConfig
from umer1.training.start import start
from umer1.training.trainable import choose_trainable
from umer1.training.wrapped import Trainee

STILL = OptimizerConfig(learning_rate=0.0)
MIXED = {"float32": "no", "bfloat16": "bf16"}


def build_sft_step(request: Request) -> Workload:
    """Forward of both sides with the next-token loss, contrastive losses, backward, optimizer."""
    config = SFTConfig(model=request.model, freeze_vision=False, optimizer=STILL)
    policy, processor = start(config, [])
    run_alone = _Staged(request, config, policy, processor)
    merge = policy.config.vision.spatial_merge_size
    batch = synthetic_batch(policy, processor, request.sizes, merge).to(run_alone.device)
    contrast = _StagedContrast(config.scale)
    objective = SFTObjective(contrast, processor.gen_id, processor.disc_id, in_parts=False)
    forward = _stage_of("forward", run_alone.model)

    def run() -> None:
        with model_stages(policy):
            add_gradients(forward, batch, objective, run_alone)
        run_alone.update()

    about = [f"model {request.model}, {len(batch.query_rows)} pairs, {batch.tokens} packed tokens"]
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
    reference = ReferencePolicy(policy, config, torch.device(request.device))
    state = _Staged(request, config, policy, processor)
    encode = PromptEncoder(processor, config.max_prompt_tokens)
    pairs = [
        PromptPair(number, *encode(pair, f"pair {number}"))
        for number, pair in enumerate(
            Pair("synthetic", Side(f"What is {number} plus {number}?"), Side(str(2 * number)))
            for number in range(sizes["pairs"])
        )
    ]
    rollouts = 2 * sizes["pairs"] * sizes["generations"]
    objective = Objective(
        completions=rollouts, normalizer=config.normalizer, per_length=config.per_length,
        clip=config.clip, beta=config.beta, temperature=config.temperature,
    )  # fmt: skip
    share = can_share(state.device, getattr(torch, request.dtype))
    merge = policy.config.vision.spatial_merge_size
    reference.score = _stage_of("reference", reference.score)
    lengths: list[float] = []

    def run() -> None:
        with model_stages(policy):
            with stage("rollouts"):
                batch = roll_out(policy, processor, [pairs], config, seed=0)
            with stage("update"):
                parts = make_parts(batch.groups, state, config, share=share, spatial_merge=merge)
                learn(
                    state.model, parts, reference, state, config, objective,
                    before_update=lambda: None, where=list,
                )  # fmt: skip
        lengths.append(batch.metrics["completion_tokens"])

    run()
    about = [f"model {request.model}, {rollouts} rollouts of {lengths[0]:.1f} tokens on average"]
    return Workload(run, getattr(torch, request.dtype), about)


class _Staged(Alone):
    """One process whose backward passes and updates are stages, prepared by accelerate as trainers do."""

    def __init__(
        self, request: Request, config: RunConfig, policy: Qwen2VL, processor: Processor
    ) -> None:
        accelerate = Accelerator(cpu=request.device == "cpu", mixed_precision=MIXED[request.dtype])
        choose_trainable(policy, config)
        trainee = Trainee(policy)
        optimizer = make_optimizer(trainee, config)
        self.model, optimizer = accelerate.prepare(trainee.train(), optimizer)

        def update() -> Tensor:
            norm = accelerate.clip_grad_norm_(
                self.model.parameters(), config.optimizer.clip_grad_norm
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return norm

        super().__init__(_stage_of("optimizer", update), accelerate.device, processor)
        self.backward = _stage_of("backward", accelerate.backward)
        self.autocast = accelerate.autocast


class _StagedContrast(Contrast):
    def __call__(self, *arguments, **keywords):
        with stage("losses"):
            return super().__call__(*arguments, **keywords)


def _stage_of(name: str, call):
    """`call` inside a stage of this name."""

    def inside(*arguments, **keywords):
        with stage(name):
            return call(*arguments, **keywords)

    return inside


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
        EncodedPair(side(2 * number, sizes["image"]), side(2 * number + 1, 0))
        for number in range(sizes["pairs"])
    ]
    return collate_sft(pairs, merge)
