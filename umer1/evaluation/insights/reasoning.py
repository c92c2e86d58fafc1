"""Vectors of given responses: what the gen vector becomes when the model is told its reasoning.

    response = Response("The digits are 3 and 4.", "seven")
    vectors = response_vectors(embedder, [item], [[response, replace(response, reasoning="")]])

The response stands after the gen prompt as if the model had written it, and the vector is read where
`<gen_emb>` is its input, as in generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F

from umer1.model.attention import PackedAttention, compute_dtype
from umer1.model.sequence import pack
from umer1.prompts import GEN_TOKEN, parse_item


@dataclass(frozen=True, slots=True)
class Response:
    """What the model writes for an item, without its tags. Both may be empty."""

    reasoning: str
    summary: str

    def text(self) -> str:
        """As UME-R1's training data have it: `<answer>` is opened and never closed."""
        return f"<think>{self.reasoning}</think><answer>{self.summary}\n{GEN_TOKEN}"


def response_vectors(
    embedder,
    items: Sequence,
    responses: Sequence[Sequence[Response]],
    *,
    tokens: int = 16384,
    advance=lambda count: None,
) -> np.ndarray:
    """Gen vectors float32 [items, E, D], L2-normalised, of E responses to each item.

    Args:
        embedder: an `Embedder` whose model is on this machine.
        items: whatever `Embedder.encode` takes.
        tokens: at most so many in one forward (more only for a single longer sequence).
        advance: told how many items are done.

    Raises:
        ValueError: items and responses differ in number, or a bad item.
    """
    if len(items) != len(responses) or len({len(own) for own in responses}) > 1:
        raise ValueError(
            f"responses: got {len(responses)} lists of {sorted({len(own) for own in responses})} "
            f"for {len(items)} items; wants one list per item, all equally long"
        )
    vectors = []
    for place, (item, own) in enumerate(zip(items, responses, strict=True)):
        prompt = embedder.processor.encode(parse_item(item, where=f"item {place}"), mode="gen")
        written = [embedder.processor.text.encode(response.text()) for response in own]
        vectors.append(_vectors(embedder.model, prompt, written, tokens))
        advance(1)
    return torch.stack(vectors).numpy()


def shuffle_tokens(processor, text: str, seed: str) -> str:
    """The text's tokens in random order; short reasoning may have few words, but many tokens."""
    ids = processor.text.encode(text)
    Random(seed).shuffle(ids)
    return processor.decode(ids)


@torch.no_grad()
def _vectors(model, prompt, written, tokens):
    """[E, D] on the CPU. The prompt's media are seen once, its text is read with each response."""
    packed = pack([prompt]).to(model.device, model.dtype)
    head, start = model.embed(packed), int(packed.next_position[0])
    states = []
    for part in _batches([len(prompt) + len(ids) for ids in written], tokens):
        hidden, positions, lengths = [], [], []
        for ids in written[part]:
            ids = torch.tensor(ids, device=model.device)
            # after the prompt, text counts on by one on all three axes
            following = start + torch.arange(len(ids), device=model.device).expand(3, -1)
            hidden += [head, model.decoder.embed(ids).to(head.dtype)]
            positions += [packed.position_ids, following]
            lengths.append(len(prompt) + len(ids))
        ends = torch.tensor([0, *lengths]).cumsum(0)
        last = (ends[1:] - 1).to(model.device)
        dtype = compute_dtype(model.decoder.norm.weight)
        ends = ends.to(model.device, torch.int32)
        attend = PackedAttention(lengths, ends, dtype, head_size=model.config.head_dim)
        states.append(model.decoder(torch.cat(hidden), torch.cat(positions, dim=1), attend, last))
    return F.normalize(torch.cat(states).float(), dim=-1).cpu()


def _batches(lengths, tokens):
    """Slices of successive sequences, at most `tokens` each; a longer sequence is alone."""
    start, total = 0, 0
    for place, length in enumerate(lengths):
        if place > start and total + length > tokens:
            yield slice(start, place)
            start, total = place, 0
        total += length
    yield slice(start, len(lengths))
