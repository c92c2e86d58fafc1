"""The prompts of RL pairs, encoded ahead of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from umer1.data.records import Pair, Side
from umer1.data.store import PairStore
from umer1.model.sequence import Sequence
from umer1.processor import Processor
from umer1.training.batching import GroupedBatches
from umer1.training.encoded import side_item
from umer1.training.loading import PairLoader, shares
from umer1.training.rollout_share import RolloutShare
from umer1.training.settings import RLConfig


@dataclass(slots=True)
class PromptPair:
    """Both prompts of a pair. place: of the pair in its batch of all processes. where: for messages; pair: to show."""

    place: int
    query: Sequence
    target: Sequence
    where: str
    pair: Pair | None = None


def prompt_batches(loader: PairLoader) -> Iterator[list[PromptPair]]:
    """This process's pairs of each batch."""
    for loaded in loader:
        yield [
            PromptPair(place, *encoded)
            for place, encoded in zip(loaded.places, loaded.batch, strict=True)
        ]


def prompt_loader(
    pairs: PairStore,
    batches: GroupedBatches,
    processor: Processor,
    config: RLConfig,
    start_batch: int,
    share: RolloutShare,
) -> PairLoader:
    """This process's pairs of the batches from number `start_batch` on, for ever."""
    return PairLoader(
        pairs,
        PromptEncoder(processor, config.max_prompt_tokens),
        list,
        shares(batches, share.rank, share.processes, start_batch),
        config,
        rank=share.process,
        world_size=share.processes * share.parts,
        start_batch=start_batch,
    )


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """(pair, where) -> both prompts, where, pair. max_prompt_tokens: 0 for no limit."""

    processor: Processor
    max_prompt_tokens: int

    def __call__(self, pair: Pair, where: str) -> tuple[Sequence, Sequence, str, Pair]:
        prompts = []
        for side, name in ((pair.query, "qry"), (pair.target, "pos")):
            prompt = rl_prompt(side, self.processor, f"{where} ({pair.dataset}), {name}")
            if self.max_prompt_tokens and len(prompt) > self.max_prompt_tokens:
                raise ValueError(
                    f"{where} ({pair.dataset}), {name}: its prompt has {len(prompt)} tokens, more "
                    f"than max_prompt_tokens {self.max_prompt_tokens}"
                )
            prompts.append(prompt)
        return *prompts, where, pair


def rl_prompt(side: Side, processor: Processor, where: str = "") -> Sequence:
    """The RL wording of one side, media included whatever their kind."""
    return processor.encode(side_item(side, where), mode="gen", dialect="rl")
