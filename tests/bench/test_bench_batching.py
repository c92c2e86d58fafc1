"""The bench of batches and packs: its lengths are the facts', its tables say what it measured."""

import numpy as np

from bench.batching import PAGE, epochs, microbatches, packs, released_lengths, shares


def test_lengths_are_spread_as_the_facts_say():
    lengths = released_lengths(20_000)
    assert lengths.shape == (20_000, 2) and lengths.max() <= 12_288
    # 90 + 2057 / 4.2 on each side, and on one of them 0.34 * 391 + 0.18 * 3009 + 0.48 * 128 visual tokens
    assert abs(lengths.mean() - (90 + 490 + (134 + 547 + 61) / 2)) < 15
    assert np.array_equal(lengths, released_lengths(20_000))


def test_tables_say_what_was_measured():
    cells = lambda text: [line.strip("| ").split(" | ") for line in text.split("\n") if line[:1] == "|"]  # noqa: E731  # fmt: skip
    filled = cells(packs(released_lengths(2_000).reshape(-1)))[2:]
    assert [row[0] for row in filled] == ["12,288 tokens", "16,384 tokens", "32,768 tokens"]
    for row in filled:
        in_order, best = (float(cell.removesuffix(" %")) for cell in row[2:4])
        assert best >= 97 and best > in_order
    for row in cells(shares(times=1))[2:]:
        consecutive, balanced, least = map(float, row[1:4])
        assert consecutive > balanced >= least >= 1
    assert len(cells(microbatches(times=1))) == 7
    assert len(cells(epochs(2_000))) == 6


def test_the_page_has_a_place_for_every_table():
    page = PAGE.read_text()
    for name in ("epochs", "shares", "packs", "microbatches"):
        assert f"<!-- begin: batching-{name} -->" in page
