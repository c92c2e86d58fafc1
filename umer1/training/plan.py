"""`umer1 train plan`: memory, steps, tokens and time of a run before it has cost anything.

Every figure that is not counted or measured stands in `Plan.assumptions`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from umer1.model.config import ModelConfig
from umer1.training import plan_memory as memory
from umer1.training.plan_advice import possible_changes
from umer1.training.plan_time import Workload, expected_seconds
from umer1.training.settings import RLConfig, SFTConfig

GIB = 2**30
RESERVE = 0.06  # of a GPU's memory that a plan leaves free
# rows of the released files (facts of the release: 1,463,360 SFT records, 11 K RL rows)
RELEASED_PAIRS = {"sft": 1_463_360, "rl": 11_000}
# characters of the released responses (query 1579 + 478, target 1711 + 487) at 4.3 to a token; system turn,
# instruction and question take about 110 tokens a side; videos have 128 visual tokens, pages up to 3009
RESPONSE_TOKENS, PROMPT_TOKENS, VISUAL_TOKENS = 495, 110, 500
ROLLOUT_TOKENS = 400  # what the released model writes on average (PLUME, table 2: 403)


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


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be planned."""

    config: SFTConfig | RLConfig
    shapes: ModelConfig
    gpus: int
    gpu_memory: int  # bytes
    sharding: str = "ddp"
    pairs: int | None = None
    prompt_tokens: int | None = None  # of one side, visual ones included
    response_tokens: int | None = None  # of one side
    visual_tokens: int | None = None  # of a pair
    throughput: float | None = None  # tokens per second, all GPUs
    gpu: str = "h200"

    @property
    def stage(self) -> str:
        return "rl" if isinstance(self.config, RLConfig) else "sft"


def make_plan(question: Question) -> Plan:
    """The plan, with advice where it does not fit.

    Raises:
        ValueError: an argument is impossible.
    """
    if question.gpus < 1:
        raise ValueError(f"gpus: got {question.gpus}, wants at least 1")
    if question.config.batch_size % question.gpus:
        raise ValueError(
            f"gpus: got {question.gpus}, but batch_size {question.config.batch_size} does not divide among them"
        )
    plan = _plan(question)
    if not (plan.fits and plan.longest_fits):
        plan.advice = _advice(question, plan)
    return plan


def sharding_of(config: SFTConfig | RLConfig) -> str:
    """What the config trains with: its DeepSpeed file's ZeRO stage, FSDP2, or a copy on every GPU."""
    if config.deepspeed:
        stage = json.loads(Path(config.deepspeed).read_text())["zero_optimization"]["stage"]
        return f"zero{stage}" if stage else "ddp"
    return "fsdp" if config.fsdp else "ddp"


def _plan(question: Question) -> Plan:
    config, shapes, gpus = question.config, question.shapes, question.gpus
    stage, assumptions = question.stage, []

    def given(value, default, text):
        if value is None:
            assumptions.append(text)
            return default
        return value

    response = given(
        question.response_tokens,
        RESPONSE_TOKENS if stage == "sft" else min(ROLLOUT_TOKENS, getattr(config, "max_new_tokens", ROLLOUT_TOKENS)),
        "length of responses: that of the released data and model",
    )  # fmt: skip
    visual = given(question.visual_tokens, VISUAL_TOKENS, f"{VISUAL_TOKENS} visual tokens per pair")
    prompt = given(
        question.prompt_tokens,
        PROMPT_TOKENS + visual // 2,
        f"{PROMPT_TOKENS} text tokens in a prompt beside its media",
    )
    pairs = given(
        question.pairs,
        RELEASED_PAIRS[stage],
        f"{RELEASED_PAIRS[stage]:,} pairs, as many as the release (give --pairs)",
    )
    update = config.batch_size * config.gradient_accumulation
    steps = config.steps or max(
        1, math.floor(config.epochs * (pairs // config.batch_size) / config.gradient_accumulation)
    )
    rollouts = config.generations if stage == "rl" else 1
    work = Workload(
        stage=stage,
        shapes=shapes,
        pairs=update,
        prompt=prompt,
        response=response,
        visual=visual,
        rollouts=rollouts,
        freeze_vision=config.freeze_vision,
        reference=stage == "rl" and bool(config.beta),
    )
    speed = expected_seconds(work, gpus, question.throughput, question.gpu, config.gradient_checkpointing)  # fmt: skip
    assumptions += speed.assumptions
    counts = memory.count_parameters(shapes, config)
    parts = _memory(question, counts, _batch_tokens(question, prompt + response), visual / (2 * (prompt + response)))  # fmt: skip
    longest = _memory(question, counts, _longest_tokens(question, prompt), 0.5)
    assumptions.append(
        f"{memory.CONTEXT / 1e9:.1f} GB for CUDA and NCCL, {memory.FRAGMENTATION:.0%} lost between blocks"
    )
    return Plan(
        stage=stage,
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
        epochs=steps * update / pairs,
        tokens=steps * work.tokens,
        tokens_per_second=work.tokens / speed.seconds,
        seconds=steps * speed.seconds,
        throughput_from=speed.source,
        assumptions=assumptions,
    )


def _batch_tokens(question: Question, side: int) -> int:
    """Packed tokens of one forward and backward pass on one GPU."""
    config = question.config
    if question.stage == "rl":
        return config.microbatch_tokens
    per_gpu = 2 * config.batch_size // question.gpus * side
    limit = config.microbatch_tokens
    return min(per_gpu, max(limit, side)) if limit else per_gpu


def _longest_tokens(question: Question, prompt: int) -> int:
    config = question.config
    if question.stage == "rl":
        return max(config.microbatch_tokens, prompt + config.max_new_tokens)
    return _batch_tokens(question, config.max_length)


def _memory(question: Question, counts, tokens: int, visual_share: float) -> dict[str, int]:
    config, shapes, gpus = question.config, question.shapes, question.gpus
    half = config.mixed_precision == "bf16"
    deepspeed = question.sharding.startswith("zero")
    item = 2 if half else 4
    residual = 2 if half and deepspeed else 4  # autocast leaves the stream between layers float32
    parts = memory.state_bytes(
        counts,
        question.sharding,
        gpus,
        config.mixed_precision,
    )
    weight_item = 2 if half and deepspeed else 4
    activations = sum(
        memory.activations(
            shapes,
            tokens,
            int(tokens * visual_share),
            checkpointing=config.gradient_checkpointing,
            freeze_vision=config.freeze_vision,
            item=item,
            residual=residual,
        )
    )
    parts["loss"] = memory.loss_bytes(shapes, item)
    if question.stage == "sft":
        parts["activations"] = activations
    else:
        if config.beta and config.reference == "copy":  # never sharded, float32
            parts["reference"] = 4 * counts.all
        parts |= _rollout_memory(question, counts, activations, weight_item)
    lost = int(memory.FRAGMENTATION * sum(parts.values()))
    return parts | {"cuda_and_fragmentation": memory.CONTEXT + lost}


def _rollout_memory(
    question: Question, counts, activations: int, weight_item: int
) -> dict[str, int]:
    """Rollouts and update follow each other: the larger of the two counts.

    Rollouts take their keys and values, the gathered weights where they are sharded, and a bf16 copy of wider ones.
    """
    config, gpus = question.config, question.gpus
    prompts = 2 * config.batch_size * config.gradient_accumulation // gpus
    prompt = question.prompt_tokens or PROMPT_TOKENS + VISUAL_TOKENS // 2
    slots = min(config.rollout_slots, prompts * config.generations)
    half = config.mixed_precision == "bf16"
    # prompts in work at once: those of the slots, and one more
    tokens = (slots // config.generations + 1) * prompt + slots * config.max_new_tokens
    cache = memory.cache_bytes(question.shapes, tokens, 2 if half else 4)
    sharded = question.sharding in ("zero3", "fsdp") and gpus > 1
    whole = weight_item * counts.all if sharded else 0
    if half and weight_item > 2:
        whole += 2 * counts.all
    if cache + whole > activations:
        return {"kv_cache": cache, "weights_for_rollouts": whole}
    return {"activations": activations}


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
