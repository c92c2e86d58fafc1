"""The prompts of RL pairs, encoded ahead of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset

from umer1.data.records import Pair, Side
from umer1.model.sequence import Sequence
from umer1.processor import Processor
from umer1.training.batching import GroupedBatches, rank_slice
from umer1.training.collate import describe, side_item
from umer1.training.settings import RLConfig


@dataclass(slots=True)
class PromptPair:
    """Both prompts of a pair. place: of the pair in its batch of all processes. where: for messages; pair: to show."""

    place: int
    query: Sequence
    target: Sequence
    where: str
    pair: Pair | None = None


def prompt_batches(
    pairs,
    batches: GroupedBatches,
    processor: Processor,
    config: RLConfig,
    start_batch: int,
    rank: int,
    world_size: int,
) -> Iterator[list[PromptPair]]:
    """This process's pairs of each batch from number `start_batch` on, for ever."""

    def shares():
        for batch in batches.batches(start_batch):
            places = rank_slice(list(range(len(batch))), rank, world_size)
            yield [(place, int(batch[place])) for place in places]

    return iter(
        DataLoader(
            PromptDataset(pairs, processor, config),
            num_workers=config.workers,
            batch_sampler=shares(),
            collate_fn=list,
        )
    )


class PromptDataset(Dataset):
    """Encoded pairs by (place, number)."""

    def __init__(self, pairs, processor: Processor, config: RLConfig):
        self.pairs, self.processor, self.config = pairs, processor, config
        self._kept: dict[int, tuple[Sequence, Sequence, str, Pair]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> PromptPair:
        place, number = key
        if number not in self._kept:
            encoded = self._encode(number)
            if not self.config.cache_encoded:
                return PromptPair(place, *encoded)
            self._kept[number] = encoded
        return PromptPair(place, *self._kept[number])

    def _encode(self, number: int) -> tuple[Sequence, Sequence, str, Pair]:
        pair = self.pairs[number]
        limit = self.config.max_prompt_tokens
        prompts = []
        for side, name in ((pair.query, "qry"), (pair.target, "pos")):
            prompt = rl_prompt(side, self.processor)
            if limit and len(prompt) > limit:
                raise ValueError(
                    f"{describe(pair, number)}, {name}: its prompt has {len(prompt)} tokens, more than "
                    f"max_prompt_tokens {limit}"
                )
            prompts.append(prompt)
        return *prompts, f"record {number} ({pair.dataset})", pair


def rl_prompt(side: Side, processor: Processor) -> Sequence:
    """The RL wording of one side, media included whatever their kind."""
    return processor.encode(side_item(side), mode="gen", dialect="rl")
