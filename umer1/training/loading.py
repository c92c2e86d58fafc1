"""Batches made ahead of the model: worker processes read records, decode media, encode and pack.

    loader = PairLoader(store, encode, collate, shares(batches, rank, world, start), config)
    for loaded in loader: train(loaded.batch)
    loader.close()

Order and content depend on the store, the batches and the seed alone, never on the workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from umer1.data.records import Pair
from umer1.data.store import PairStore
from umer1.media import MediaError
from umer1.training.bad_media import BadMedium, SkipLog, Skipped
from umer1.training.batching import GroupedBatches, rank_slice
from umer1.training.parcels import Parcel
from umer1.training.settings import RunConfig
from umer1.training.substitutes import Substitutes

# as many unusable pairs in a row are no accident: a wrong data_path, a disk that is gone
MOST_IN_A_ROW = 16


@dataclass(slots=True)
class Share:
    """What one process makes of one global batch.

    Attributes:
        number: of the batch, since the start of training.
        batch: pair numbers of the whole batch.
        places: which of them are this process's.
    """

    number: int
    batch: list[int]
    places: list[int]


@dataclass(slots=True)
class Loaded:
    """A batch as `collate` made it, the numbers of its pairs in the store, their places in the
    batch of all processes."""

    batch: Any
    numbers: list[int]
    places: list[int]


def group_pairs(
    store: PairStore, config: RunConfig, target_keys: Sequence[Hashable] | None = None
) -> GroupedBatches:
    """Batches of the store's pairs, with the weights that its configuration gives the sources."""
    sources = [store.source_names[code] for code in store.sources]
    return GroupedBatches(
        sources,
        config.batch_size,
        config.group_size,
        config.seed,
        target_keys,
        store.source_weights,
    )


def shares(
    batches: GroupedBatches,
    rank: int = 0,
    world_size: int = 1,
    start_batch: int = 0,
    lengths: np.ndarray | None = None,
) -> Iterator[Share]:
    """This process's shares of the batches from `start_batch` on, for ever.

    lengths: estimated tokens of each pair of the store; with them the shares have about equally many.
    """
    for number, batch in enumerate(batches.batches(start_batch), start_batch):
        batch = [int(pair) for pair in batch]
        of_batch = None if lengths is None else lengths[batch].tolist()
        places = rank_slice(list(range(len(batch))), rank, world_size, of_batch)
        yield Share(number, batch, places)


class PairLoader:
    """Iterates over `Loaded` batches.

    Args:
        encode: (pair, where) -> what goes into a batch; MediaError or ValueError says why a pair
            cannot be used.
        collate: list of those -> batch.
        config: `workers`, `prefetch`, `bad_media`, `cache_encoded`, `seed`, `output`.
        rank, world_size: of the files of skipped pairs, `<output>/<stage>_skipped_pairs.<rank>.jsonl`.
        start_batch: number of the first batch; skipped pairs of that one and later are forgotten.

    With workers, store, encode and collate are sent to them: they must be picklable.
    """

    def __init__(
        self,
        store: PairStore,
        encode: Callable[[Pair, str], Any],
        collate: Callable[[list], Any],
        asked: Iterable[Share],
        config: RunConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ):
        self.skips = SkipLog(Path(config.output), config.stage, start_batch, rank, world_size)
        several = config.workers > 0
        self._loader = DataLoader(
            _Batches(store, encode, collate, config),
            sampler=asked,
            generator=torch.Generator(),  # its own: the global one is part of a resumed run's state
            batch_size=None,  # a worker makes whole batches
            collate_fn=Parcel.of if several else _unchanged,
            num_workers=config.workers,
            prefetch_factor=config.prefetch if several else None,
            persistent_workers=several,
            worker_init_fn=_one_thread if several else None,
            multiprocessing_context=_forkserver() if several else None,
        )

    def close(self) -> None:
        """Say at the end of a run what was skipped."""
        if summary := self.skips.summary():
            print(summary, flush=True)

    def __iter__(self) -> Iterator[Loaded]:
        for made in self._loader:
            if isinstance(made, Parcel):
                made = made.open()
            if made.error is not None:
                raise made.error
            self.skips.add(made.skipped)
            yield Loaded(made.batch, made.numbers, made.places)


@dataclass(slots=True)
class _Made:
    """What comes from a worker. Errors come as values: raised there they would reach the user as a
    traceback inside a message."""

    batch: Any
    numbers: list[int]
    places: list[int]
    skipped: list[Skipped]
    error: Exception | None = None


class _Batches(Dataset):
    """Share -> _Made."""

    def __init__(self, store: PairStore, encode, collate, config: RunConfig):
        self.store, self.encode, self.collate = store, encode, collate
        self.skip, self.substitutes = config.bad_media == "skip", Substitutes(store, config.seed)
        self._kept: dict[int, Any] | None = {} if config.cache_encoded else None

    def __getitem__(self, share: Share) -> _Made:
        encoded, numbers, skipped = [], [], []
        try:
            for place in share.places:
                number, made = self._usable(share.batch[place], share, skipped)
                numbers.append(number)
                encoded.append(made)
            return _Made(self.collate(encoded), numbers, share.places, skipped)
        except ValueError as error:
            return _Made(None, numbers, share.places, skipped, error)

    def _usable(self, number: int, share: Share, skipped: list[Skipped]) -> tuple[int, Any]:
        """The pair, or with `skip` the first of its substitutes that can be used."""
        others = None
        for _ in range(MOST_IN_A_ROW):
            try:
                return number, self._encoded(number)
            except ValueError as error:
                if not self.skip:
                    raise
                if others is None:
                    others = self.substitutes.of(number, share.batch, share.number)
                other = next(others, None)
                if other is None:
                    source = self.store.source_names[self.store.sources[number]]
                    raise ValueError(f"{error}; no other pair of {source!r} is left") from None
                skipped.append(self._skipped(number, other, share.number, error))
                last, number = error, other
        raise ValueError(f"{MOST_IN_A_ROW} pairs of one source in a row cannot be used: {last}")

    def _encoded(self, number: int) -> Any:
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        try:
            encoded = self.encode(self.store[number], self.store.where(number))
        except MediaError as error:
            raise BadMedium(str(error)) from None
        if self._kept is not None:
            self._kept[number] = encoded
        return encoded

    def _skipped(self, number: int, other: int, batch: int, error: ValueError) -> Skipped:
        return Skipped(
            batch,
            self.store.where(number),
            self.store.source_names[self.store.sources[number]],
            "medium" if isinstance(error, MediaError) else "record",
            str(error),
            self.store.where(other),
        )


def _forkserver():
    """Workers from a clean process: a fork of the trainer would share CUDA and its threads' locks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["umer1.training.loading", "umer1.training.collate"])
    return context


def _one_thread(_: int) -> None:
    # workers are the parallelism; the tokenizer's own threads would multiply them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)


def _unchanged(made: _Made) -> _Made:
    return made
