"""A step of the released RL trainer, on transformers: every rollout with its whole prompt and picture, three times.

Read from the release and written anew, reduced to what costs time and memory. For both sides: generate() on left-padded
batches in which each prompt, picture included, stands once per rollout; a forward with gradients over prompt and completion
that gives log-softmax of all logits of every position, row by row, and the embeddings (`output_hidden_states=True`); the
same without gradients for the frozen reference. Rewards are a Python loop with a read-back per rollout. The graphs of all forwards live
until the one backward, for the loss needs the rewards, which need every vector; `rows` is how many sequences go through
generate() and through a forward at once.

What tokens come out is scripted, after the logits have been computed and read as always.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.engine.peers import Forced
from bench.peers.released_sft import last_occurrence
from bench.training.workload import SIDES, TrainingWorkload, update
from umer1.engine.hf_inputs import model_inputs

BETA, CLIP, EPSILON = 0.04, (0.2, 0.28), 1e-4
NORMALIZER = 2048.0
FORMAT = re.compile(r"<think>.*?</think>.*?\s*<answer>.*?\s*<gen_emb>", re.DOTALL)


def step(workload: TrainingWorkload, rows: int) -> Tensor:
    """Rollouts, rewards, forward, backward, clipping and AdamW: float32 [4 N G + 2], gaps, embedding rewards, loss, norm of the gradient."""
    optimizer = workload.transformers_optimizer
    sides = {side: _side(workload, side, rows) for side in SIDES}
    texts = [workload_text(response) for side in SIDES for response in workload.responses[side]]
    formats = torch.tensor([float(bool(FORMAT.search(text))) for text in texts]).chunk(2)
    gaps, rewards, loss = [], [], 0.0
    for side, other, form in zip(SIDES, reversed(SIDES), formats):
        own = sides[side]
        rank, gap = looped_scores(own["vectors"], sides[other]["vectors"], workload.rollouts)
        gaps.append(gap)
        rewards.append(embedding := rank * gap)
        grouped = (form + embedding).view(-1, workload.rollouts)
        spread = grouped.std(1, keepdim=True) + EPSILON
        advantage = ((grouped - grouped.mean(1, keepdim=True)) / spread).flatten()
        terms = zip(own["policy"], own["reference"], advantage.tolist())
        loss = loss + torch.stack([_grpo(*term) for term in terms]).mean() / 2
    loss.backward()
    numbers = torch.stack([loss.detach().float(), update(optimizer).float()]).cpu()
    return torch.cat([*gaps, *rewards, numbers])


def workload_text(response: list[int]) -> str:
    """A completion's text: random ids have none, so one of its length in the wanted form stands for it."""
    return f"<think>{'word ' * len(response)}</think><answer>word\n<gen_emb>"


def looped_scores(own: Tensor, other: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rank and gap of every rollout of one side, one after the other, read back each time; float32 [N G] each."""
    ranks, gaps = [], []
    for row, vector in enumerate(own):
        first = row // size * size
        similarity = other @ vector
        positive = similarity[first : first + size]
        negative = torch.cat([similarity[:first], similarity[first + size :]])
        top = torch.topk(torch.cat([positive, negative]), size).indices
        ranks.append((top < size).sum().item() / size)
        gaps.append((positive.mean() - negative.mean()).item())
    return torch.tensor(ranks), torch.tensor(gaps)


def _side(workload: TrainingWorkload, side: str, rows: int) -> dict:
    """Log-probabilities of policy (with gradient) and reference, a tensor per rollout, and vectors [N G, H]."""
    model, reference = workload.transformers, workload.transformers_reference
    prompts = [each for each in workload.prompts[side] for _ in range(workload.rollouts)]
    found = {"policy": [], "reference": [], "vectors": []}
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        scripts = workload.responses[side][part]
        inputs = model_inputs(model, prompts[part], pad_id=workload.id("eos"))
        length = inputs["input_ids"].shape[1]
        written = _generate(workload, inputs, scripts)
        whole = _whole(inputs, written, scripts)
        output = model(**whole, output_hidden_states=True, use_cache=False)
        found["policy"] += _logprobs(output.logits, whole["input_ids"], scripts, length)
        completion = whole["input_ids"] == workload.id("gen")
        completion[:, :length] = False
        states = output.hidden_states[-1].detach()
        found["vectors"].append(last_occurrence(states, completion).float())
        with torch.no_grad():
            logits = reference(**whole, use_cache=False).logits
            found["reference"] += _logprobs(logits, whole["input_ids"], scripts, length)
    return found | {"vectors": torch.cat(found["vectors"])}


@torch.no_grad()
def _generate(workload: TrainingWorkload, inputs: dict, scripts: list[list[int]]) -> Tensor:
    """Prompts and completions, int64 [B, T]."""
    model = workload.transformers.eval()  # no checkpointing, which would forbid the cache
    written = model.generate(
        **inputs,
        max_new_tokens=max(map(len, scripts)),
        do_sample=False,
        eos_token_id=workload.id("eos"),
        pad_token_id=workload.id("eos"),
        logits_processor=[Forced(scripts, inputs["input_ids"].shape[1])],
    )
    model.train()
    return written


def _whole(inputs: dict, written: Tensor, scripts: list[list[int]]) -> dict:
    """The same inputs over prompt and completion, completions masked after their end."""
    new = written.shape[1] - inputs["input_ids"].shape[1]
    lengths = torch.tensor([len(script) for script in scripts], device=written.device)
    mask = (torch.arange(new, device=written.device) < lengths[:, None]).long()
    whole = {
        **inputs,
        "input_ids": written,
        "attention_mask": torch.cat([inputs["attention_mask"], mask], dim=1),
    }
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, new))
    return whole


def _logprobs(
    logits: Tensor, ids: Tensor, scripts: list[list[int]], prompt_length: int
) -> list[Tensor]:
    """Of each row's completion tokens; log-softmax over its whole length, prompt included, as released."""
    found = []
    for row, own, script in zip(logits[:, :-1], ids[:, 1:], scripts):
        logprobs = row.log_softmax(-1).gather(1, own[:, None])[:, 0]
        found.append(logprobs[prompt_length - 1 : prompt_length - 1 + len(script)])
    return found


def _grpo(policy: Tensor, reference: Tensor, advantage: float) -> Tensor:
    policy, reference = policy.float(), reference.float()
    ratio = (policy - policy.detach()).exp()
    clipped = ratio.clamp(1 - CLIP[0], 1 + CLIP[1])
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    difference = reference - policy
    divergence = difference.exp() - difference - 1
    return (BETA * divergence - surrogate).sum() / NORMALIZER


@torch.no_grad()
def true_scores(workload: TrainingWorkload) -> Tensor:
    """Gaps and embedding rewards as they stand in a step's result, from float32 forwards; float64 [4 N G]."""
    model, vectors = workload.wide_transformers(), {}
    for side in SIDES:
        found = []
        for sequence in workload.sequences(side):
            inputs = model_inputs(model, [sequence], pad_id=workload.id("eos"))
            states = model(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1)
            # the response's last two tokens are <gen_emb> and the end of the turn
            found.append(F.normalize(states.hidden_states[-1][0, -2], dim=-1))
        vectors[side] = torch.stack(found)
    scores = [
        looped_scores(vectors[side], vectors[other], workload.rollouts)
        for side, other in zip(SIDES, reversed(SIDES))
    ]
    gaps, rewards = [gap for _, gap in scores], [rank * gap for rank, gap in scores]
    return torch.cat([*gaps, *rewards]).double()
