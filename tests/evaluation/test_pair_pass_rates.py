"""Pass rates of training pairs, with an embedder whose samples are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from umer1.data import open_rl
from umer1.data.pass_rates import UNKNOWN, read_pass_rates
from umer1.evaluation.pair_pass_rates import measure_pass_rates


class KnownEmbedder:
    """Targets are unit vectors by their number; of query n the first n % 5 of 4 samples are right,
    the others opposite to everything. `fail_after` groups it breaks down."""

    dimension = 40

    def __init__(self, fail_after=None):
        self.groups, self.fail_after, self.numbers = 0, fail_after, []

    def _vector(self, text):
        vector = np.zeros(self.dimension, np.float32)
        vector[int(text.split()[1])] = 1
        return vector

    def encode(self, items, mode, progress, **options):
        assert "temperature" not in options
        return SimpleNamespace(gen=np.stack([self._vector(item["text"]) for item in items]))

    def stream(self, items, mode, n, numbers, **options):
        assert options["temperature"] == 0.7
        self.groups += 1
        if self.groups == self.fail_after:
            raise KeyboardInterrupt
        self.numbers.append(numbers)
        for place in reversed(range(len(items))):
            number = int(items[place]["text"].split()[1])
            gen = np.stack([self._vector(f"q {number}")] * n)
            gen[number % (n + 1) :, number] = -1
            hit = np.ones((1, n), bool)
            if number == 4:  # all four are right, but one of them wrote no <gen_emb>
                hit[0, 0] = False
            yield place, SimpleNamespace(gen=gen[None], hit=hit)


@pytest.fixture
def store(tmp_path):
    rows = [
        {"dataset_name": "ab"[n % 2], "qry_text": f"q {n}", "pos_text": f"t {n}"} for n in range(40)
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_rl(tmp_path / "pool.jsonl", tmp_path)


def measure(store, out, embedder=None, **options):
    options = {"samples": 4, "temperature": 0.7, "group": 7} | options
    return measure_pass_rates(embedder or KnownEmbedder(), store, out, progress=False, **options)


def test_rates_and_groups(store, tmp_path):
    embedder = KnownEmbedder()
    told = measure(store, tmp_path / "rates.jsonl", embedder)
    wanted = np.array([n % 5 for n in range(40)])
    wanted[4] = 3
    np.testing.assert_array_equal(read_pass_rates(tmp_path / "rates.jsonl", 40), wanted / 4)
    assert told["pass_rate"] == wanted.mean() / 4
    assert told["sources"]["a"] == wanted[::2].mean() / 4
    # 20 pairs of each source: three groups of about seven, never mixed
    assert [len(numbers) for numbers in embedder.numbers] == [7, 7, 6, 7, 7, 6]
    assert all(len({number % 2 for number in numbers}) == 1 for numbers in embedder.numbers)
    assert sorted(sum(embedder.numbers, [])) == list(range(40))
    assert not (tmp_path / "rates.jsonl.partial").exists()
    with pytest.raises(ValueError, match="rates.jsonl exists"):
        measure(store, tmp_path / "rates.jsonl")


def test_equal_targets_are_as_right(tmp_path):
    rows = [{"dataset_name": "a", "qry_text": f"q {n}", "pos_text": "t 1"} for n in range(4)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = measure(open_rl(tmp_path / "pool.jsonl", tmp_path), tmp_path / "rates.jsonl")
    assert told["pass_rate"] == 1.0


def test_a_source_of_one_pair_has_nothing_to_compare(tmp_path):
    rows = [
        {"dataset_name": "ab"[n > 2], "qry_text": f"q {n}", "pos_text": f"t {n}"} for n in range(4)
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = measure(open_rl(tmp_path / "pool.jsonl", tmp_path), tmp_path / "rates.jsonl")
    assert (told["measured"], list(told["sources"])) == (3, ["a"])
    assert read_pass_rates(tmp_path / "rates.jsonl", 4).tolist() == [0, 0.25, 0.5, UNKNOWN]


def test_a_stopped_run_goes_on(store, tmp_path):
    measure(store, tmp_path / "whole.jsonl")
    out, partial = tmp_path / "rates.jsonl", tmp_path / "rates.jsonl.partial"
    with pytest.raises(KeyboardInterrupt):
        measure(store, out, KnownEmbedder(fail_after=4))
    partial.write_bytes(partial.read_bytes() + b'{"pairs": [1')
    with pytest.raises(ValueError, match="is of a run with samples 4, not 5"):
        measure(store, out, samples=5)
    embedder = KnownEmbedder()
    measure(store, out, embedder)
    assert embedder.groups == 3
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_stopped_run_does_not_go_on_with_other_pairs(store, tmp_path):
    out, pool = tmp_path / "rates.jsonl", tmp_path / "pool.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure(store, out, KnownEmbedder(fail_after=4))
    before = pool.read_text()
    # as many pairs of the same sources, one with another text, media or place
    lines = before.split("\n")
    for changed in (
        before.replace('"t 39"', '"t 0"'),
        before.replace('"pos_text": "t 39"', '"pos_text": "t 39", "pos_image": "a.png"'),
        "\n".join([lines[2], lines[1], lines[0], *lines[3:]]),
    ):
        assert changed != before
        pool.write_text(changed)
        with pytest.raises(ValueError, match="partial is of a run with data '.*', not '.*'"):
            measure(open_rl(pool, tmp_path), out)
    pool.write_text(before)
    assert measure(open_rl(pool, tmp_path), out)["measured"] == 40


def test_one_process_at_a_time_writes_an_output(store, tmp_path):
    out = tmp_path / "rates.jsonl"

    class Meddled(KnownEmbedder):
        def encode(self, *arguments, **options):
            with pytest.raises(ValueError, match="rates.jsonl: another process is writing it"):
                measure(store, out)
            measure(store, tmp_path / f"other{self.groups}.jsonl")
            return super().encode(*arguments, **options)

    assert measure(store, out, Meddled())["measured"] == 40
    assert sorted(path.name for path in tmp_path.glob("*rates*")) == ["rates.jsonl"]
    assert not (tmp_path / ".rates.jsonl.lock").exists()


def test_bad_settings(store, tmp_path):
    for bad in ({"samples": 0}, {"group": 1}, {"temperature": 0}):
        with pytest.raises(ValueError, match="wants samples >= 1, group >= 2, temperature > 0"):
            measure(store, tmp_path / "rates.jsonl", **bad)
    assert list(tmp_path.glob("rates*")) == []
