"""UME-R1's reinforcement learning in TRL's GRPOTrainer (1.16).

    from umer1.integrations.trl import GenerativeRollouts
    from umer1.integrations.trl_pairs import format_reward, paired_rows, rank_gap_reward

    trainer = GRPOTrainer(
        "zhibinlan/UME-R1-2B",
        reward_funcs=[format_reward, rank_gap_reward],
        args=GRPOConfig(shuffle_dataset=False, ...),
        train_dataset=Dataset.from_list(paired_rows(pairs)).cast_column("images", List(Image())),
        rollout_func=GenerativeRollouts(),
    )

One pass of this project's engine gives the tokens, their log-probabilities and the generative
vectors, so no reward needs a forward of its own. The engine has its own copy of the weights and takes
the policy's before each batch of rollouts. TRL trains on texts and images, not on videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from umer1.engine import Prompt, Rollout, Sampling, generate
from umer1.engine.requests import row_seed
from umer1.engine.weights import write_weights
from umer1.model.config import ModelConfig
from umer1.model.key_names import canonical_key, checkpoint_tensors
from umer1.model.packed_weights import PackedWeights, pack_weights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence
from umer1.processor import Processor

if TYPE_CHECKING:
    from trl import GRPOTrainer


class GenerativeRollouts:
    """TRL's `rollout_func`: what it returns beside prompts, completions and log-probabilities are
    columns for rewards.

    gen_emb: float32 [H] on the policy's device, L2-normalised. gen_hit: whether the completion wrote
    `<gen_emb>`; where it did not, gen_emb is some other state. gen_text: the completion with every
    special token, which TRL's own `completions` lack.

    Args:
        slots: most rows decoded together.
    """

    def __init__(self, *, slots: int = 64):
        if slots < 1:
            raise ValueError(f"slots: got {slots}, wants at least 1")
        self.slots = slots
        self.version = 0  # how often the policy's weights were taken
        self._model: Qwen2VL | None = None
        self._packed: PackedWeights | None = None

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict[str, list]:
        """One completion of each prompt; TRL has repeated them `num_generations` times."""
        words = Processor.from_parts(trainer.processing_class.tokenizer)
        sequences = _sequences(prompts, trainer.processing_class, words.image_pad_id)
        first = trainer.accelerator.process_index * len(prompts)
        numbered = [Prompt(each, first + place) for place, each in enumerate(sequences)]
        sampling = _sampling(trainer, self.version)
        self._take_weights(trainer)
        # the engine goes when it is done, and its keys and values with it
        results = generate(
            self._model,
            numbered,
            sampling,
            gen_id=words.gen_id,
            eos_id=words.eos_id,
            slots=self.slots,
        )
        rollouts: list[Rollout] = [result.rollouts[0] for result in results]
        return {
            "prompt_ids": [sequence.input_ids.tolist() for sequence in sequences],
            "completion_ids": [rollout.tokens for rollout in rollouts],
            "logprobs": [rollout.logprobs for rollout in rollouts],
            "gen_emb": [rollout.vector for rollout in rollouts],
            "gen_hit": [rollout.hit for rollout in rollouts],
            "gen_text": [words.decode(rollout.tokens) for rollout in rollouts],
        }

    def _take_weights(self, trainer: GRPOTrainer) -> None:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        device = trainer.accelerator.device
        dtype = torch.bfloat16 if trainer.args.bf16 else next(policy.parameters()).dtype
        if self._model is None or (self._model.device, self._model.dtype) != (device, dtype):
            config = ModelConfig.from_dict(policy.config.to_dict())
            with torch.device("meta"):
                model = Qwen2VL(config).to(dtype).requires_grad_(False)
            self._model = model.to_empty(device=device).eval()
            self._packed = None
        with _whole(policy) as named:
            _check_complete(self._model, self._packed, named)
            write_weights(self._model, self._packed, named.items())
        if device.type == "cpu" and self._packed is None:
            self._packed = pack_weights(self._model)
        self.version += 1


def _sequences(prompts: list, processor: Any, image_pad_id: int) -> list[Sequence]:
    """The very prompts that the policy will be trained on: rendered and processed as TRL does."""
    found: list[Sequence] = []
    for place, prompt in enumerate(prompts):
        if place and prompt == prompts[place - 1]:
            found.append(found[-1])
            continue
        text, images = prompt, []
        if not isinstance(prompt, str):
            parts = [part for turn in prompt for part in turn["content"] if isinstance(part, dict)]
            if any(part.get("type") == "video" for part in parts):
                raise ValueError(
                    f"prompt {place}: has a video, and TRL trains on texts and images alone"
                )
            images = [part["image"] for part in parts if part.get("type") == "image"]
            text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=images or None, return_tensors="pt")
        ids = inputs["input_ids"][0]
        found.append(
            Sequence(
                ids,
                ids == image_pad_id,
                inputs["pixel_values"] if images else None,
                inputs["image_grid_thw"] if images else torch.zeros(0, 3, dtype=torch.int64),
            )
        )
    return found


def _sampling(trainer: GRPOTrainer, version: int) -> Sampling:
    args = trainer.args
    for name, neutral in (
        ("min_p", None),
        ("repetition_penalty", 1.0),
        ("generation_kwargs", None),
    ):
        if getattr(args, name) not in (neutral, {}):
            raise ValueError(
                f"{name}: got {getattr(args, name)!r}, the engine has only {neutral!r}"
            )
    if args.max_completion_length is None:
        raise ValueError("max_completion_length: got None, the engine wants a number")
    return Sampling(
        args.max_completion_length,
        args.temperature,
        args.top_p,
        args.top_k,
        seed=row_seed(args.seed, trainer.state.global_step, version),
        stop="eos",
    )


@contextmanager
def _whole(policy: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The policy's weights by their checkpoint names; those of LoRA merged into them."""
    merges = hasattr(policy, "merge_adapter")
    if merges:
        policy.merge_adapter()
    try:
        named = {}
        for name, parameter in policy.named_parameters():
            if "lora_" in name or ".original_module." in name:
                continue
            name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            key = canonical_key(name.replace(".modules_to_save.default.", "."))
            if key is not None:
                named[key] = parameter.detach()
        yield named
    finally:
        if merges:
            policy.unmerge_adapter()


def _check_complete(model: Qwen2VL, packed: PackedWeights | None, named: dict) -> None:
    if packed is not None:  # they were complete when it was packed, and their names do not change
        return
    for entry in checkpoint_tensors(model):
        if entry.key not in named or tuple(named[entry.key].shape) != entry.shape:
            got = tuple(named[entry.key].shape) if entry.key in named else "none"
            raise ValueError(
                f"policy: {entry.key} has shape {got}, wants {entry.shape}. Rollouts need whole weights: "
                "sharded ones (ZeRO-3, FSDP) are trained by `umer1 train`"
            )
