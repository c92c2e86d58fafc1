"""The released recipe and its parts, on transformers: left-padded batches through generate() and forward.

The recipe, as UME-R1's evaluation and its README have it: `generate(output_hidden_states=True)`, the vector is the last
layer's state at the step that reads `<gen_emb>`. A batch lasts as long as its longest row and keeps every layer's states
of every step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.engine.ours import script_table
from bench.engine.workload import Workload
from umer1.engine.hf_inputs import model_inputs
from umer1.model import Qwen2VL, save_model


def as_transformers(model: Qwen2VL):
    """A Qwen2VLForConditionalGeneration with the weights of ours, in its dtype."""
    from transformers import GenerationConfig, Qwen2VLForConditionalGeneration, logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        save_model(model, directory)
        loaded = Qwen2VLForConditionalGeneration.from_pretrained(directory, dtype=model.dtype)
    loaded.generation_config = GenerationConfig()
    return loaded.to(model.device).eval()


@torch.no_grad()
def released(workload: Workload, batch: int) -> Tensor:
    """The recipe; float32 [embeddings, H]."""
    vectors = []
    for output, scripts, prompt_length in _generated(workload, batch, output_hidden_states=True):
        new = output.sequences[:, prompt_length:]
        for row in range(len(scripts)):
            place = int((new[row] == workload.special.gen_id).nonzero()[-1])
            # step 0 has read the prompt: the one that reads token `place` is the next
            vectors.append(output.hidden_states[place + 1][-1][row, -1])
    return F.normalize(torch.stack(vectors).float(), dim=-1)


@torch.no_grad()
def generated(workload: Workload, batch: int) -> Tensor:
    """generate() alone, without any vector: the number of tokens."""
    runs = _generated(workload, batch, output_hidden_states=False)
    return torch.tensor(sum(output.sequences.numel() for output, *_ in runs))


@torch.no_grad()
def released_disc(workload: Workload, batch: int) -> Tensor:
    """Disc mode: one forward over the whole padded prompts, its logits and all hidden states; float32 [prompts, H]."""
    vectors = []
    for inputs, places in _disc_batches(workload, batch):
        states = workload.transformers(**inputs, output_hidden_states=True).hidden_states[-1]
        vectors.append(states[torch.arange(len(places)), places])
    return F.normalize(torch.cat(vectors).float(), dim=-1)


@torch.no_grad()
def backbone_disc(workload: Workload, batch: int) -> Tensor:
    """Disc mode without logits, the last layer's states alone: the best the padded form can do."""
    vectors = []
    for inputs, places in _disc_batches(workload, batch):
        states = workload.transformers.model(**inputs, use_cache=False).last_hidden_state
        vectors.append(states[torch.arange(len(places)), places])
    return F.normalize(torch.cat(vectors).float(), dim=-1)


class Forced:
    """A logits processor: the script's token has the highest score. In place: one write per row."""

    def __init__(self, scripts: list[list[int]], prompt_length: int):
        self.table, self.prompt_length = script_table(scripts), prompt_length
        self._here: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._here is None:
            self._here = self.table.to(scores.device)
        token = self._here[:, input_ids.shape[1] - self.prompt_length]
        return scores.scatter_(1, token[:, None], torch.inf)


def _generated(workload: Workload, batch: int, *, output_hidden_states: bool) -> Iterator:
    """(output of generate(), scripts, padded length of the prompts) of each batch."""
    model, special = workload.transformers, workload.special
    rows = workload.rows
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        inputs = model_inputs(
            model, [request.sequence for request, _ in part], pad_id=special.eos_id
        )
        scripts = [script for _, script in part]
        length = inputs["input_ids"].shape[1]
        output = model.generate(
            **inputs,
            max_new_tokens=max(map(len, scripts)),
            do_sample=False,
            eos_token_id=special.eos_id,
            pad_token_id=special.eos_id,
            logits_processor=[Forced(scripts, length)],
            output_hidden_states=output_hidden_states,
            return_dict_in_generate=True,
        )
        yield output, scripts, length
        del output


def _disc_batches(workload: Workload, batch: int) -> Iterator[tuple[dict, Tensor]]:
    model, requests = workload.transformers, workload.requests
    for start in range(0, len(requests), batch):
        part = requests[start : start + batch]
        sequences = [request.sequence for request in part]
        inputs = model_inputs(model, sequences, pad_id=workload.special.eos_id)
        length = inputs["input_ids"].shape[1]
        places = [length - len(each.sequence) + each.disc_position for each in part]
        yield inputs, torch.tensor(places)
