"""A run whose batches are of many tensors, in a process that may open few files: python many_tensors.py OUTPUT."""

import resource
import sys

import torch

from umer1.data.records import Pair, Side
from umer1.training.loading import PairLoader, Share
from umer1.training.settings import SFTConfig

TENSORS, DESCRIPTORS, BATCHES = 400, 128, 6


class Pairs:
    """A store of pairs that need no file."""

    source_names, sources = ["texts"], [0] * BATCHES

    def __getitem__(self, number):
        return Pair("texts", Side(str(number)), Side(""))

    def where(self, number):
        return f"pair {number}"


def number_of(pair, where):
    return int(pair.query.text)


def many(numbers):
    return [torch.full((3,), number + place) for place in range(TENSORS) for number in numbers]


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    asked = [Share(number, [number], [0]) for number in range(BATCHES)]
    config = SFTConfig(output=sys.argv[1], workers=1, prefetch=3)
    kept = list(PairLoader(Pairs(), number_of, many, asked, config))
    sums = [int(torch.stack(loaded.batch).sum()) for loaded in kept]
    assert sums == [
        sum(3 * (number + place) for place in range(TENSORS)) for number in range(BATCHES)
    ], sums
    print("all came")
