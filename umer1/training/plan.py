"""`umer1 train plan`: memory, steps, tokens and time of a run before it has cost anything.

Every figure that is not counted or measured stands in `Plan.assumptions`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from umer1.training import plan_memory as memory
from umer1.training.deepspeed_config import read_deepspeed, zero_stage
from umer1.training.plan_advice import possible_changes
from umer1.training.plan_gpu import (
    batch_tokens,
    gpu_memory,
    longest_gpu_memory,
    shared_batch_tokens,
)
from umer1.training.plan_question import Lengths, Question, lengths
from umer1.training.plan_time import Workload, expected_seconds
from umer1.training.settings import RLConfig, SFTConfig

GIB = 2**30
RESERVE = 0.06  # of a GPU's memory that a plan leaves free
# rows of the released files (facts of the release: 1,463,360 SFT records, 11 K RL rows)
RELEASED_PAIRS = {"sft": 1_463_360, "rl": 11_000}


@dataclass(slots=True)
class Plan:
    """What `plan` finds. Bytes per GPU by part; seconds of the whole run."""

    stage: str
    gpus: int
    sharding: str
    parameters: dict[str, int]
    memory: dict[str, int]
    peak: int
    longest_peak: int  # with a batch of sequences of the greatest length
    gpu_memory: int
    pairs: int
    steps: int
    epochs: float
    tokens: int
    tokens_per_second: float
    seconds: float
    throughput_from: str
    assumptions: list[str]
    advice: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.peak <= (1 - RESERVE) * self.gpu_memory

    @property
    def longest_fits(self) -> bool:
        return self.longest_peak <= (1 - RESERVE) * self.gpu_memory

    def to_dict(self) -> dict:
        made = dataclasses.asdict(self)
        made |= {"fits": self.fits, "longest_fits": self.longest_fits}
        made["gpu_hours"] = self.seconds / 3600 * self.gpus
        return made


def make_plan(question: Question) -> Plan:
    """The plan, with advice where it does not fit.

    Raises:
        ValueError: an argument is impossible.
    """
    if question.gpus < 1:
        raise ValueError(f"gpus: got {question.gpus}, wants at least 1")
    try:
        question.config.check_processes(question.gpus)
    except ValueError as error:
        raise ValueError(f"gpus: got {question.gpus}; {error}") from None
    plan = _plan(question)
    if not (plan.fits and plan.longest_fits):
        plan.advice = _advice(question, plan)
    return plan


def sharding_of(config: SFTConfig | RLConfig) -> str:
    """What the config trains with: its DeepSpeed file's ZeRO stage, FSDP2, or a copy on every GPU."""
    if config.deepspeed:
        return f"zero{zero_stage(read_deepspeed(config.deepspeed))}"
    return "fsdp" if config.fsdp else "ddp"


def _plan(question: Question) -> Plan:
    config, shapes, gpus = question.config, question.shapes, question.gpus
    mean, assumptions = lengths(question)
    pairs = question.pairs
    if pairs is None:
        pairs = RELEASED_PAIRS[question.stage]
        assumptions.append(f"{pairs:,} pairs, as many as the release (give --pairs)")
    work = _workload(question, mean)
    steps = config.steps or work.updates * max(
        1, math.floor(config.epochs * (pairs // config.batch_size) / config.gradient_accumulation)
    )
    speed = expected_seconds(work, gpus, question.throughput, question.gpu)
    counts = memory.count_parameters(shapes, config)
    parts = gpu_memory(question, counts, mean)
    longest = longest_gpu_memory(question, counts, mean)
    held = f"{memory.CONTEXT / 1e9:.1f} GB for CUDA and NCCL, {memory.FRAGMENTATION:.0%} lost between blocks"
    return Plan(
        stage=question.stage,
        gpus=gpus,
        sharding=question.sharding,
        parameters={
            "all": counts.all,
            "trainable": counts.trainable,
            "vision": counts.tower + counts.merger,
            "embeddings": counts.embeddings,
        },
        memory=parts,
        peak=sum(parts.values()),
        longest_peak=sum(longest.values()),
        gpu_memory=question.gpu_memory,
        pairs=pairs,
        steps=steps,
        epochs=steps / work.updates * work.pairs / pairs,
        tokens=steps * work.tokens,
        tokens_per_second=work.tokens / speed.seconds,
        seconds=steps * speed.seconds,
        throughput_from=speed.source,
        assumptions=[*assumptions, *speed.assumptions, held],
    )


def _workload(question: Question, mean: Lengths) -> Workload:
    config = question.config
    common = dict(
        stage=question.stage,
        shapes=question.shapes,
        pairs=config.batch_size * config.gradient_accumulation,
        prompt=mean.prompt,
        response=mean.response,
        visual=mean.visual,
        freeze_vision=config.freeze_vision,
        checkpointing=config.gradient_checkpointing,
    )
    if question.stage == "sft":
        several = batch_tokens(question, mean.side) < shared_batch_tokens(question, mean.side)
        return Workload(**common, grad_cache=several)
    return Workload(
        **common,
        rollouts=config.generations,
        updates=config.updates_per_rollout,
        share_prompts=config.share_prompts,
        reference=bool(config.beta),
    )


def _advice(question: Question, plan: Plan) -> list[str]:
    """Single changes that make it fit; all of them together where none does."""
    changes = possible_changes(question.config, question.gpus, question.sharding)

    def with_(asked: dict, settings: dict) -> Plan:
        made = dataclasses.replace(question.config, **settings)
        return _plan(dataclasses.replace(question, config=made, **asked))

    good = lambda made: made.fits and (made.longest_fits or not plan.fits)
    tried = [(text, with_(asked, settings)) for text, asked, settings in changes]
    advice = [f"{text}: {made.peak / GIB:.1f} GiB, {made.longest_peak / GIB:.1f} at most" for text, made in tried if good(made)]  # fmt: skip
    if advice:
        return advice[:4]
    together_asked, together_settings = {}, {}
    for _, asked, settings in changes:
        together_asked |= asked
        together_settings |= settings
    made = with_(together_asked, together_settings)
    texts = "; ".join(text for text, *_ in changes) or "a GPU with more memory"
    verdict = "fits" if good(made) else "still does not fit"
    return [f"no single change is enough; all of these together {verdict} ({made.peak / GIB:.1f} GiB): {texts}"]  # fmt: skip
