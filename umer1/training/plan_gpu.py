"""What one GPU holds in a planned run, by part."""

from __future__ import annotations

from umer1.training import plan_memory as memory
from umer1.training.plan_question import Lengths, Question


def gpu_memory(question: Question, counts: memory.Counts, mean: Lengths) -> dict[str, int]:
    """Bytes with a batch of mean lengths."""
    return _memory(question, counts, mean, batch_tokens(question, mean.side), mean.visual_share)


def longest_gpu_memory(question: Question, counts: memory.Counts, mean: Lengths) -> dict[str, int]:
    """Bytes with a batch of sequences that all have the greatest length, half of it visual."""
    config = question.config
    if question.stage == "rl":
        tokens = max(config.microbatch_tokens, mean.prompt + config.max_new_tokens)
    else:
        tokens = batch_tokens(question, config.max_length)
    return _memory(question, counts, mean, tokens, 0.5)


def batch_tokens(question: Question, side: int) -> int:
    """Packed tokens of one forward and backward pass on one GPU."""
    limit = question.config.microbatch_tokens
    if question.stage == "rl":
        return limit
    whole = shared_batch_tokens(question, side)
    return min(whole, max(limit, side)) if limit else whole


def shared_batch_tokens(question: Question, side: int) -> int:
    """A GPU's tokens of a contrastive batch."""
    return 2 * question.config.batch_size // question.gpus * side


def _memory(
    question: Question, counts: memory.Counts, mean: Lengths, tokens: int, visual_share: float
) -> dict[str, int]:
    config, shapes, gpus = question.config, question.shapes, question.gpus
    half = config.mixed_precision == "bf16"
    item = 2 if half else 4
    # DeepSpeed and FSDP2 cast the weights; autocast leaves the stream between layers float32
    residual = 2 if half and question.sharding != "ddp" else 4
    parts = memory.state_bytes(counts, question.sharding, gpus, config.mixed_precision)
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
    if question.generative:
        parts["loss"] = memory.loss_bytes(shapes, item)
        if config.lora.rank:  # the head with its learnt rows is a copy
            parts["loss"] += item * shapes.vocab_size * shapes.hidden_size
    if question.stage == "sft":
        parts["activations"] = activations
    else:
        if config.beta and config.reference == "copy":  # never sharded, in the policy's own dtype
            parts["reference"] = residual * counts.all
        parts |= _rollouts_or_update(question, counts, mean, activations)
    lost = int(memory.FRAGMENTATION * sum(parts.values()))
    return parts | {"cuda_and_fragmentation": memory.CONTEXT + lost}


def _rollouts_or_update(
    question: Question, counts: memory.Counts, mean: Lengths, activations: int
) -> dict[str, int]:
    """Rollouts and update follow each other: the larger of the two counts.

    Rollouts take their keys and values, the gathered weights where they are sharded, and a bf16 copy of wider ones.
    """
    config, gpus = question.config, question.gpus
    half = config.mixed_precision == "bf16"
    weight_item = 2 if half and question.sharding.startswith("zero") else 4
    parts = config.processes_per_pair(gpus)
    prompts = 2 * config.batch_size * config.gradient_accumulation * parts // gpus
    slots = min(config.rollout_slots, prompts * config.generations // parts)
    # what the engine reserves: the prompts that can be in work at once, and the slots at their longest
    tokens = min(slots, prompts) * mean.prompt + slots * config.max_new_tokens
    cache = memory.cache_bytes(question.shapes, tokens, 2 if half else 4)
    sharded = question.sharding in ("zero3", "fsdp") and gpus > 1
    whole = weight_item * counts.all if sharded else 0
    if half and weight_item > 2:
        whole += 2 * counts.all
    if cache + whole > activations:
        return {"kv_cache": cache, "weights_for_rollouts": whole}
    return {"activations": activations}
