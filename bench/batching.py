"""`python -m bench.batching`: speed and quality of batches, shares and packs, at the released recipe's size.

Host work alone, no model. Prints the tables of docs/batching.md; `--write` puts them there. Times are seconds of
one core, the best of three.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.report import BLOCK
from umer1.training.balance import even_shares
from umer1.training.batching import GroupedBatches
from umer1.training.packing import efficiency, plan_microbatches, plan_packs, planner

PAGE = Path(__file__).resolve().parent.parent / "docs" / "batching.md"
# rows with a reasoning block of each kind of source, of 1,463,338: UME-sft-train's own statistics
ROWS = {"image": 500_630, "document": 266_022, "video": 696_686}
# visual tokens of one side: photographs of 640 x 480; pages at the cap of 2,359,296 pixels; 8 frames, two to a
# token row, of at most 32 tokens each
VISUAL = {"image": 391, "document": 3009, "video": 128}
# mean characters of reasoning and answer of one side (facts of the released data), at 4.2 characters a token; the
# instruction and the question; the spread is assumed: log-normal, sigma 0.6
CHARACTERS, PER_TOKEN, PROMPT, SIGMA, LONGEST = 1579 + 478, 4.2, 90, 0.6, 12_288


def released_lengths(pairs: int, seed: int = 0) -> np.ndarray:
    """Tokens of both sides, int64 [pairs, 2], spread as the released data's: media on one side of a pair."""
    chance = np.random.default_rng(seed)
    share = np.array(list(ROWS.values())) / sum(ROWS.values())
    visual = np.array(list(VISUAL.values()))[chance.choice(len(share), pairs, p=share)]
    middle = np.log(CHARACTERS / PER_TOKEN) - SIGMA**2 / 2
    lengths = PROMPT + chance.lognormal(middle, SIGMA, (pairs, 2))
    lengths[np.arange(pairs), chance.integers(0, 2, pairs)] += visual
    return np.minimum(lengths, LONGEST).astype(np.int64)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.batching", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_463_360, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="into docs/batching.md")
    arguments = parser.parse_args(argv)
    lengths = released_lengths(arguments.pairs)
    tables = {
        "batching-epochs": epochs(arguments.pairs),
        "batching-shares": shares(),
        "batching-packs": packs(lengths.reshape(-1)),
        "batching-microbatches": microbatches(),
    }
    print("\n\n".join(tables.values()))
    if arguments.write:
        page = PAGE.read_text()
        PAGE.write_text(
            BLOCK.sub(lambda block: block[1] + tables[block["name"]] + "\n" + block[4], page)
        )


def epochs(pairs: int) -> str:
    chance = np.random.default_rng(0)
    codes = chance.integers(0, 25, pairs).astype(np.int32)
    keys = chance.integers(0, pairs // 4, pairs)
    kinds = {
        "sources as codes": dict(sources=codes),
        "sources as names": dict(sources=[f"source {code}" for code in codes.tolist()]),
        "twins kept apart (`target_keys`)": dict(sources=codes, target_keys=keys),
        "weights": dict(sources=codes, weights={code: 1.0 + code for code in range(25)}),
    }
    rows = []
    for name, options in kinds.items():
        make = lambda: GroupedBatches(batch_size=256, group_size=64, **options)  # noqa: B023, E731
        batches, start = timed(make)
        _, each = timed(lambda: batches.epoch_array(1))  # noqa: B023
        rows.append([name, f"{start:.2f}", f"{each:.2f}"])
    return table([f"{pairs:,} pairs", "once, s", "each epoch, s"], rows)


def shares(times: int = 50) -> str:
    rows = []
    for count, world in ((256, 8), (256, 32), (256, 64), (1024, 8), (1024, 64), (4096, 64)):
        batches = released_lengths(times * count).sum(1).reshape(times, count)
        found, seconds = [], []
        for batch in batches:
            plan, once = timed(lambda: even_shares(batch, world), times=1)  # noqa: B023
            mean, sums = batch.sum() / world, batch[np.array(plan)].sum(1)
            ascending = np.sort(batch)
            least = max(mean, ascending[-1] + ascending[: count // world - 1].sum())
            found.append([batch.reshape(world, -1).sum(1).max() / mean, sums.max() / mean, least / mean])  # fmt: skip
            seconds.append(once)
        values = [f"{value:.3f}" for value in np.mean(found, axis=0)]
        rows.append([f"{count} pairs, {world} processes", *values, f"{1e3 * np.median(seconds):.1f}"])  # fmt: skip
    head = [
        "fullest process / mean",
        "consecutive",
        "`lengths` given",
        "least possible",
        "ms a batch",
    ]
    return table(head, rows)


def packs(lengths: np.ndarray) -> str:
    rows = []
    backends = ["numpy"] + ["compiled"] * (planner().name == "compiled")
    for capacity in (12_288, 16_384, 32_768):
        plans = {name: timed(lambda: plan_packs(lengths, capacity, backend=name)) for name in backends}  # noqa: B023  # fmt: skip
        assert all(plan == plans["numpy"][0] for plan, _ in plans.values())
        best, first_come = plans["numpy"][0], in_order(lengths, capacity)
        filled = [f"{100 * efficiency(lengths, plan, capacity):.2f} %" for plan in (first_come, best)]  # fmt: skip
        took = [f"{plans[name][1]:.2f}" if name in plans else "-" for name in ("numpy", "compiled")]
        rows.append([f"{capacity:,} tokens", f"{len(best):,}", *filled, *took])
    four = lengths[: len(lengths) // 4 * 4].reshape(-1, 4)
    padded = four.sum() / (4 * four.max(1)).sum()
    head = [f"packs of {len(lengths):,} sequences", "packs", "in order", "best fit", "Python, s", "compiled, s"]  # fmt: skip
    return table(head, rows) + (
        f"\n\nThe same sequences in padded batches of 4 drawn at random: {100 * padded:.1f} % real tokens. "
        "Batches of one source, as in the release, are padded less."
    )


def microbatches(times: int = 50) -> str:
    rows = []
    for count, capacity in ((32, 16_384), (128, 16_384), (128, 32_768), (512, 16_384), (512, 32_768)):  # fmt: skip
        full, even, parts = [], [], []
        for sides in released_lengths(times * count).reshape(times, -1):
            plan = plan_microbatches(sides, capacity)
            sizes = [sides[part].sum() for part in plan]
            full.append(efficiency(sides, plan, capacity))
            even.append(np.mean(sizes) / max(sizes))
            parts.append(len(plan))
        rows.append([f"{count} pairs, {capacity:,} tokens", f"{np.mean(parts):.1f}",
                     f"{100 * np.mean(full):.1f} %", f"{100 * np.mean(even):.1f} %"])  # fmt: skip
    return table(["of one process", "microbatches", "of their room", "mean / largest"], rows)


def in_order(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Sequences in their order, a new pack where one does not fit."""
    plan, held = [[]], 0
    for item, length in enumerate(lengths.tolist()):
        if plan[-1] and held + length > capacity:
            plan.append([])
            held = 0
        plan[-1].append(item)
        held += length
    return plan


def timed(function: Callable, times: int = 3) -> tuple:
    """(result, seconds of one core, the least of several calls)."""
    seconds = []
    for _ in range(times):
        began = time.process_time()
        result = function()
        seconds.append(time.process_time() - began)
    return result, min(seconds)


def table(head: list[str], rows: list[list[str]]) -> str:
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    rule = line(["---", *["--:"] * (len(head) - 1)])
    return "\n".join([line(head), rule, *map(line, rows)])


if __name__ == "__main__":
    main()
