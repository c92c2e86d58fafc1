"""Rollouts packed for learning: a prompt with all its completions behind it, each prompt once.

The released trainer sends every completion through the model together with its whole prompt, pictures included:
G = 8 times the same prompt, in the policy and in the reference. Here the prompt goes through once; its completions
follow it and attend to it (umer1/model/shared_attention.py). Positions of a completion go on where its prompt ends,
and its last token, which predicts nothing, stays away. Same log-probabilities and gradients, less work.

Legend: T packed tokens, C completion tokens, K rows whose state is wanted, G completions of a prompt.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from umer1.model.attention import PackedAttention
from umer1.model.decoder import Attend
from umer1.model.row_copies import RowCopies
from umer1.model.sequence import Packed, Sequence, pack
from umer1.model.shared_attention import SharedPrefixAttention, shared_backend
from umer1.training.packing import plan_packs

log = logging.getLogger("umer1")


@dataclass(slots=True)
class RolloutGroup:
    """A prompt and completions of it to learn from: tokens int64 [L >= 1] and an advantage each."""

    prompt: Sequence
    completions: list[Tensor]
    advantages: list[float]

    def take(self, members: list[int]) -> RolloutGroup:
        """The same prompt with some of its completions."""
        return RolloutGroup(
            self.prompt,
            [self.completions[member] for member in members],
            [self.advantages[member] for member in members],
        )

    @property
    def suffixes(self) -> list[int]:
        """Tokens of each completion that go through the model: all but its last."""
        return [len(tokens) - 1 for tokens in self.completions]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt) + sum(self.suffixes)


@dataclass(slots=True)
class RolloutPack:
    """One forward and backward.

    Attributes:
        packed: the tokens, on the device but for the pixels, which come for each forward; `lengths` are those of the
            sequences that attend together.
        layout: (prompt, its continuations) in tokens where prompts are shared, None where each completion
            brings its prompt.
        keep: int64 [K], rows of T whose states predict completion tokens.
        copies: [K, ...] -> [C, ...]: a prompt's last state predicts the first token of each completion.
        ids: int64 [C], the tokens. advantage: float32 [C]. length: float32 [C], tokens of the completion.
    """

    packed: Packed
    layout: tuple[list[int], list[list[int]]] | None
    keep: Tensor
    copies: RowCopies
    ids: Tensor
    advantage: Tensor
    length: Tensor
    _attends: dict[torch.dtype, Attend] = field(default_factory=dict)

    def attend(self, dtype: torch.dtype) -> Attend:
        """The attention plan for queries of `dtype`; made once for all forwards."""
        if dtype not in self._attends:
            device = self.ids.device
            if self.layout is None:
                plan = PackedAttention(self.packed.lengths, self.packed.cu_seqlens, dtype)
            else:
                plan = SharedPrefixAttention(*self.layout, device, dtype)
            self._attends[dtype] = plan
        return self._attends[dtype]


def can_share(device: torch.device, dtype: torch.dtype, head_size: int | None = None) -> bool:
    """Whether there is an attention for shared prompts; otherwise every completion brings its own, and the log
    says so."""
    if shared_backend(device, dtype, head_size) is not None:
        return True
    log.warning("rl: prompts are not shared, no attention for it on %s in %s", device, dtype)
    return False


def merge_prompts(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    """Groups with the same prompt (a label or a picture that several pairs have) become one."""
    found: dict[tuple, list[RolloutGroup]] = {}
    for group in groups:
        found.setdefault(_content(group.prompt), []).append(group)
    return [
        RolloutGroup(
            same[0].prompt,
            [tokens for group in same for tokens in group.completions],
            [advantage for group in same for advantage in group.advantages],
        )
        for same in found.values()
    ]


def pieces(groups: list[RolloutGroup], capacity: int, *, share: bool) -> list[RolloutGroup]:
    """What stands together: whole groups with `share`, else single completions, each with its prompt.

    A group of more than `capacity` tokens is cut between completions, and its prompt goes with each piece.
    """
    if not share:
        return [group.take([member]) for group in groups for member in range(len(group.suffixes))]
    return [piece for group in merge_prompts(groups) for piece in _cut(group, capacity)]


def pack_rollouts(
    groups: list[RolloutGroup], device: torch.device, spatial_merge: int, *, share: bool
) -> RolloutPack:
    """Pack the groups of one part. Without `share` each group has one completion."""
    prompts = pack([group.prompt for group in groups], spatial_merge)
    ids, positions, keep, rows, media = [], [], [], [], []
    place = 0  # of the next token in the pack
    kept = 0
    prompt_start = 0
    media_index = prompts.media_index.tolist()
    used = 0
    for group, after in zip(groups, prompts.next_position.tolist()):
        size, total = len(group.prompt), group.tokens
        ids.append(group.prompt.input_ids)
        positions.append(prompts.position_ids[:, prompt_start : prompt_start + size])
        seen = int(group.prompt.media_mask.sum())
        shift = place - prompt_start
        media += [index + shift for index in media_index[used : used + seen]]
        used += seen
        keep.append(torch.arange(place + size - 1, place + total))
        first = kept + 1
        for tokens, length in zip(group.completions, group.suffixes):
            ids.append(tokens[:-1])
            positions.append(torch.arange(after, after + length).expand(3, length))
            rows += [torch.tensor([kept]), torch.arange(first, first + length)]
            first += length
        kept, place, prompt_start = first, place + total, prompt_start + size
    lengths = [group.tokens for group in groups]
    completions = [tokens for group in groups for tokens in group.completions]
    sizes = torch.tensor([len(tokens) for tokens in completions])
    advantages = [advantage for group in groups for advantage in group.advantages]
    layout = None
    if share:
        own = [[length for length in group.suffixes if length] for group in groups]
        layout = ([len(group.prompt) for group in groups], own)
    packed = replace(
        prompts,
        input_ids=torch.cat(ids),
        position_ids=torch.cat(positions, dim=1),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        lengths=lengths,
        media_index=torch.tensor(media, dtype=torch.int64),
        pixel_values=None,
    ).to(device)
    return RolloutPack(
        packed=replace(packed, pixel_values=prompts.pixel_values),
        layout=layout,
        keep=torch.cat(keep).to(device),
        copies=RowCopies(torch.cat(rows), kept, device),
        ids=torch.cat(completions).to(device),
        advantage=torch.tensor(advantages).repeat_interleave(sizes).to(device),
        length=sizes.float().repeat_interleave(sizes).to(device),
    )


def filler(token: int) -> list[RolloutGroup]:
    """What a process runs, with weight 0, while the others still have parts: two tokens."""
    prompt = Sequence(
        torch.tensor([token, token]),
        torch.zeros(2, dtype=torch.bool),
        None,
        torch.zeros(0, 3, dtype=torch.int64),
    )
    return [RolloutGroup(prompt, [torch.tensor([token])], [0.0])]


def _cut(group: RolloutGroup, capacity: int) -> list[RolloutGroup]:
    if group.tokens <= capacity:
        return [group]
    # an empty completion counts as a token: the planner wants no items of nothing
    room = max(1, capacity - len(group.prompt))
    return [
        group.take(sorted(part))
        for part in plan_packs([max(1, length) for length in group.suffixes], room)
    ]


def _content(prompt: Sequence) -> tuple:
    digest = hashlib.sha256()
    for tensor in (prompt.input_ids, prompt.media_mask, prompt.grid_thw, prompt.pixel_values):
        if tensor is not None:
            digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return len(prompt), len(prompt.grid_thw), digest.digest()
