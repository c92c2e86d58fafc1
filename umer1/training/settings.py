"""The settings of a training run, with the released recipe's values as defaults where it has one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from umer1.training.settings_checks import check_optimizer, check_settings


@dataclass(slots=True)
class OptimizerConfig:
    """AdamW with a linear warm-up, then cosine or linear decay to zero, or a constant rate."""

    name: str = "adamw"
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    schedule: str = "cosine"  # cosine | linear | constant
    clip_grad_norm: float = 1.0

    def __post_init__(self):
        check_optimizer(self)


@dataclass(slots=True)
class LoRAConfig:
    """Adapters on the decoder's matrix products instead of training them whole; merged in the saved model.

    Why: a tenth of the memory for gradients and optimizer. The products are fused here: "qkv" stands for
    q_proj, k_proj and v_proj, which share one A, "gate_up" for gate_proj and up_proj likewise, "output"
    for o_proj, "down" for down_proj.
    """

    rank: int = 0  # 0: no LoRA
    alpha: float = 32.0  # adapters count alpha / rank
    dropout: float = 0.0
    targets: str = "qkv,output,gate_up,down"


@dataclass(slots=True)
class RunConfig:
    """What SFT and RL share. stage: "sft" or "rl"."""

    stage: ClassVar[str]

    model: str = (
        ""  # directory, hub id, or "tiny": the architecture to train from scratch, see `tiny`
    )
    data: str = (
        ""  # registry names ("name%50,other"), or the path of an SFT JSON/JSONL or RL YAML/JSON
    )
    data_path: str = (
        ""  # root of the media paths (RL: the image root); default: the folder of the data file
    )
    registry: str = ""  # YAML registry that `data` names refer to
    local_folders: dict[str, str] = field(
        default_factory=dict
    )  # VLM2Vec YAML: where a hub data set lies, {"TIGER-Lab/MMEB-train": "data/MMEB-train"}
    sources: str = ""  # only pairs of these data sets, separated by commas; default: all
    output: str = ""  # checkpoints, logs and the final model go here
    steps: int = 0  # optimizer steps; 0: from `epochs`
    epochs: float = 1.0
    seed: int = 42
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    freeze_vision: bool = True  # the vision tower without its merger
    freeze_merger: bool = False
    freeze_decoder: bool = False  # with the embedding table and the head
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    mixed_precision: str = "no"  # no | bf16
    deepspeed: str = ""  # path of a DeepSpeed JSON (ZeRO-1/2/3), the released zero3.json as it is
    fsdp: bool = False  # shard with PyTorch's FSDP2 instead of copying the model to every GPU
    save_every: int = (
        0  # steps between checkpoints that a killed run resumes from; 0: only at the end
    )
    save_every_minutes: float = 0.0  # or as soon as this long has passed; 0: by steps alone
    keep_checkpoints: int = 2  # the newest ones; 0: all
    on_nan: str = "stop"  # stop | skip: a step whose loss or gradient is NaN or infinite
    log_every: int = 10
    wandb_project: str = ""  # also log to this Weights & Biases project
    samples_every: int = 0  # steps between samples of what the model writes; 0: none
    samples_count: int = 4  # pairs shown each time
    cache_encoded: bool = False  # keep every encoded record in memory (small data sets)
    workers: int = 0  # processes per GPU that decode media and encode pairs ahead of the model
    prefetch: int = 2  # batches that each of them keeps ready
    bad_media: str = "fatal"  # fatal | skip: train on another pair of the source, and count it
    time_limit_seconds: float = (
        0.0  # stop cleanly after this long (0: never); the schedule follows the clock
    )
    tiny: dict[str, Any] = field(
        default_factory=dict
    )  # arguments of `tiny_config` when model is "tiny"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        check_settings(self)

    def check_processes(self, world_size: int) -> None:
        """ValueError unless the batch divides among so many processes."""
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size: got {self.batch_size}, wants a multiple of the number of processes "
                f"{world_size}"
            )


@dataclass(slots=True)
class SFTConfig(RunConfig):
    """Stage one: gen InfoNCE + disc InfoNCE + CE of both sides (facts: the released `trainer.py`)."""

    stage: ClassVar[str] = "sft"

    batch_size: int = 256  # pairs per contrastive batch, over all processes
    group_size: int = 64  # pairs of one source that stand together
    scale: float = 50.0  # logits = scale * cosine; temperature 0.02
    # pairs with identical targets, or with the same "pos_id" in the data, are no negatives of each other
    # (released: they are). For data with few labels, or with targets that say the same in other words
    mask_duplicates: bool = False
    cross_entropy_weight: float = 1.0
    # next-token loss as a mean over the tokens of all processes, so that it does not depend on how
    # sequences fall on them; False, as released: the mean of each process's mean
    global_token_mean: bool = False
    generative: bool = True  # False: the DUME baseline, disc InfoNCE alone; responses are not read
    discriminative: bool = True  # False: gen InfoNCE and next-token loss alone, for ablations
    max_length: int = 12288
    # GradCache: most tokens per forward pass; 0: all at once. For contrastive batches beyond memory:
    # the same gradient for one more forward pass of all parts but one
    microbatch_tokens: int = 0
    # weight of the cross terms gen-disc; 0, as released: none. For queries embedded without generation
    # that search an index embedded with it
    align_weight: float = 0.0
    # train the scale too, from `scale` on and at most 100. For data whose best temperature is not known
    learn_scale: bool = False
    # sides under "neg" of each record that are targets nobody has; 0: none. For distinctions that a
    # batch's other pairs do not ask for
    hard_negatives: int = 0
    # dimension -> weight of the same loss on the vectors' first numbers. For vectors that may be cut
    # short in an index; the dimensions are recorded in the model's config.json
    matryoshka: dict[int, float] = field(default_factory=dict)

    def __post_init__(self):
        RunConfig.__post_init__(self)
        if not self.generative and self.align_weight:
            raise ValueError(
                "align_weight: wants generative: true, there are no gen vectors to align"
            )
        if not self.discriminative and (not self.generative or self.align_weight):
            raise ValueError(
                "discriminative: false wants generative: true and align_weight: 0, or there is nothing "
                "to train or to align"
            )
        for size, weight in self.matryoshka.items():
            numbers = isinstance(size, int) and isinstance(weight, (int, float))
            if not numbers or size < 1 or not 0 < weight < math.inf:
                raise ValueError(
                    f"matryoshka: got {size!r}: {weight!r}, wants dimension: weight, both above 0"
                )


@dataclass(slots=True)
class RLConfig(RunConfig):
    """Stage two: GRPO on both sides with R = R_format + R_rank * R_gap (released settings are the defaults)."""

    stage: ClassVar[str] = "rl"

    batch_size: int = 16  # pairs whose rollouts are each other's negatives, over all processes
    group_size: int = 1  # pairs of one source that stand together in a batch
    distinct_targets: bool = False  # keep pairs with the same target apart
    generations: int = 8  # rollouts per pair and side
    max_new_tokens: int = 2048
    max_prompt_tokens: int = 0  # a longer prompt is an error that names its record; 0: any
    temperature: float = 1.0  # of sampling and, alike, of every log-probability
    clip: tuple[float, float] = (0.2, 0.28)
    beta: float = 0.04  # weight of the KL to the starting model; 0 needs no reference
    reference: str = "copy"  # copy | lora | precomputed, see reference_policy.py
    normalizer: float = 2048.0  # constant divisor of each completion's token sum
    per_length: bool = False  # divide it by the completion's own length instead
    reward: str = "rank_gap"  # rank_gap | rank | gap | threshold | adaptive_threshold
    format_weight: float = 1.0
    length_penalty: float = 0.0  # weight of the soft penalty of long completions, see rewards.py
    length_buffer: int = 512  # tokens below max_new_tokens over which that penalty grows to 1
    skip_flat_groups: bool = False  # groups whose rewards are all equal are not learned from
    updates_per_rollout: int = 1  # optimizer steps on the same rollouts, with clipped ratios
    rollout_slots: int = 128
    # "native", or servers that write the rollouts: vllm:URL, sglang:URL (several: URL,URL); the
    # weights of every round go to them through `rollout_weights`, a directory that they see too
    rollout_engine: str = "native"
    rollout_weights: str = ""
    microbatch_tokens: int = 16384  # tokens per backward pass
    share_prompts: bool = True  # a prompt goes through the model once for all its completions
    freeze_vision: bool = False

    def __post_init__(self):
        RunConfig.__post_init__(self)
        if self.generations < 2:
            raise ValueError(
                f"generations: got {self.generations}, wants at least 2 (advantages compare rollouts)"
            )
        if self.rollout_engine != "native":
            from umer1.engine.named import engine_name

            if engine_name(self.rollout_engine).kind not in ("vllm", "sglang"):
                raise ValueError(
                    f"rollout_engine: got {self.rollout_engine!r}, wants 'native', 'vllm:URL' or "
                    "'sglang:URL'"
                )
            if not self.rollout_weights:
                raise ValueError(
                    "rollout_weights: is empty, wants a directory that the servers of "
                    f"{self.rollout_engine} see under the same name"
                )
        if self.length_penalty and not 1 <= self.length_buffer <= self.max_new_tokens:
            raise ValueError(
                f"length_buffer: got {self.length_buffer}, wants 1 to max_new_tokens "
                f"{self.max_new_tokens}"
            )
        for name in ("steps", "save_every"):
            if getattr(self, name) % self.updates_per_rollout:
                raise ValueError(
                    f"updates_per_rollout: got {self.updates_per_rollout}, wants a divisor of {name} "
                    f"{getattr(self, name)}"
                )

    def check_processes(self, world_size: int) -> None:
        """ValueError unless pairs, or the generations of each, divide among so many processes."""
        self.processes_per_pair(world_size)

    def processes_per_pair(self, world_size: int) -> int:
        """How many processes share a pair's generations: 1 unless there are more of them than pairs."""
        if self.batch_size % world_size == 0:
            return 1
        parts, rest = divmod(world_size, self.batch_size)
        if rest or self.generations % parts:
            raise ValueError(
                f"batch_size: got {self.batch_size} pairs of {self.generations} generations for {world_size} "
                "processes, wants a multiple of the processes, or processes that are the pairs times a "
                "divisor of the generations"
            )
        return parts
