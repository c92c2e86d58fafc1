"""The released evaluation loop in gen mode, on transformers: left-padded batches of four, of two for video tasks.

Read from the release and written anew, reduced to what costs time. Each side of a task is cut into batches in its
order; a batch goes through generate() with the hidden states of every layer and step kept, and lasts as long as its longest
answer. A row's vector is the last layer's state of the step that reads its last generated `<gen_emb>`.

In the peer's favour: its prompts and pixels are made by our processor (equal to transformers', and faster), answers end at 512
tokens instead of 8,192, and a row without `<gen_emb>` gets the state of its own last input, not of the batch's last step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.evaluation.workload import MAX_NEW_TOKENS, EvaluationWorkload, Side
from umer1.engine.hf_inputs import model_inputs

BATCHES = {"image": 4, "video": 2, "visdoc": 4}  # of the release, on every GPU


def vectors(workload: EvaluationWorkload) -> Tensor:
    """Gen vectors of all items, float32 [items, H]."""
    return torch.cat([side_vectors(workload, side) for side in workload.sides])


def side_vectors(workload: EvaluationWorkload, side: Side) -> Tensor:
    """Of one side, float32 [items, H]."""
    batch = BATCHES[side.modality]
    starts = range(0, len(side.items), batch)
    return torch.cat([_batch(workload, side.items[start : start + batch]) for start in starts])


@torch.no_grad()
def _batch(workload: EvaluationWorkload, items: list[dict]) -> Tensor:
    model, processor = workload.transformers, workload.embedder.processor
    sequences = [processor.encode(item, mode="gen") for item in items]
    inputs = model_inputs(model, sequences, pad_id=processor.pad_id)
    output = model.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=processor.eos_id,
        pad_token_id=processor.pad_id,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    written = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    steps = [read_step(tokens, processor.gen_id, processor.eos_id) for tokens in written]
    states = [output.hidden_states[step][-1][row, -1] for row, step in enumerate(steps)]
    return F.normalize(torch.stack(states).float(), dim=-1)


def read_step(tokens: list[int], gen_id: int, eos_id: int) -> int:
    """Which step of generate() read the row's last `<gen_emb>`; without one, its own last input."""
    end = tokens.index(eos_id) if eos_id in tokens else len(tokens) - 1
    places = [place for place in range(end) if tokens[place] == gen_id]
    # step 0 reads the prompt and writes token 0: token `place` is read by the next one
    return places[-1] + 1 if places else end
