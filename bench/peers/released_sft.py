"""A step of the released SFT trainer, on transformers: padded batches, full float32 logits, two forwards.

Read from the release and written anew, reduced to what costs time and memory. Each side of the micro-batch is a padded
forward of its own (`output_hidden_states=True`); the cross-entropy upcasts the logits of every position, prompts, pictures and
padding included, and copies them shifted, as transformers 4.49 does; the vectors of all forwards meet in one symmetric
InfoNCE at scale 50, in the model's dtype. The release spreads a contrastive batch over processes of a few rows each: here
those are forwards of `rows` rows in one process, and the mean over tokens is taken over all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.training.workload import SCALE, SIDES, TrainingWorkload, update
from umer1.engine.hf_inputs import model_inputs

IGNORED = -100


def step(workload: TrainingWorkload, rows: int) -> Tensor:
    """Forward, backward, clipping and AdamW: float32 [5], gen, disc, both cross-entropies, norm of the gradient."""
    optimizer = workload.transformers_optimizer
    found = losses(workload, workload.transformers, rows)
    found.sum().backward()
    return torch.cat([found.detach().float(), update(optimizer).float()[None]]).cpu()


def losses(workload: TrainingWorkload, model: torch.nn.Module, rows: int) -> Tensor:
    """[4]: gen, disc, cross-entropy of queries and of targets, whose sum is the loss."""
    vectors = {name: {side: [] for side in SIDES} for name in ("gen", "disc")}
    entropies = []
    for side in SIDES:
        sequences, responses = workload.sequences(side), workload.responses[side]
        total = 0.0
        for start in range(0, len(sequences), rows):
            part = slice(start, start + rows)
            inputs = model_inputs(model, sequences[part], pad_id=workload.id("eos"))
            output = model(**inputs, output_hidden_states=True, use_cache=False)
            total = total + _token_loss(output.logits, inputs["input_ids"], responses[part])
            states = output.hidden_states[-1]
            for name in vectors:
                found = inputs["input_ids"] == workload.id(name)
                vectors[name][side].append(last_occurrence(states, found))
        entropies.append(total / sum(map(len, responses)))
    contrastive = [
        _info_nce(torch.cat(vectors[name]["query"]), torch.cat(vectors[name]["target"]))
        for name in ("gen", "disc")
    ]
    return torch.stack([*(each.float() for each in contrastive), *entropies])


def last_occurrence(states: Tensor, found: Tensor) -> Tensor:
    """Normalised state of the last position of each row where `found` [B, T] holds; [B, H]."""
    places = torch.arange(found.shape[1], device=found.device)
    last = torch.where(found, places, -1).amax(1)
    return F.normalize(states[torch.arange(len(found), device=found.device), last], dim=-1)


def _token_loss(logits: Tensor, ids: Tensor, responses: list[list[int]]) -> Tensor:
    """Sum over the supervised tokens: those of the responses."""
    labels = torch.full_like(ids, IGNORED)
    for row, response in enumerate(responses):
        labels[row, -len(response) :] = ids[row, -len(response) :]
    shifted = logits.float()[:, :-1].contiguous()
    return F.cross_entropy(
        shifted.view(-1, shifted.shape[-1]), labels[:, 1:].flatten(), reduction="sum"
    )


def _info_nce(query: Tensor, target: Tensor) -> Tensor:
    """Both directions by a product of their own, as the release has them."""
    labels = torch.arange(len(query), device=query.device)
    forward, backward = SCALE * query @ target.T, SCALE * target @ query.T
    return (F.cross_entropy(forward, labels) + F.cross_entropy(backward, labels)) / 2
