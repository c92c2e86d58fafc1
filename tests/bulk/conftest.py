"""An embedder that depends on nothing but the item and its number, and a run over three small files."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from umer1.bulk import Run, ShardWorker, inputs
from umer1.bulk.run import plan

OPTIONS = {"mode": "both", "n": 1, "readout": "at"}


class NumberedEmbedder:
    """A text "bad" cannot be opened, "long" is refused by the engine; the last item finishes first."""

    dimension = 6

    def __init__(self):
        self.processor = SimpleNamespace(encode=self._open)
        self.computed = []

    def stream(self, items, mode="both", n=1, numbers=None, readout="at", **options):
        for place in reversed(range(len(items))):
            text = items[place].get("text", "")
            if text in ("bad", "long"):
                raise ValueError(f"item {place}: is {text}")
            self.computed.append(numbers[place])
            yield place, self._result(items[place], numbers[place], mode, n)

    def _open(self, item, mode):
        if item.text == "bad":
            raise ValueError("is bad")

    def _result(self, item, number, mode, n):
        seed = hashlib.sha256(json.dumps([item, number], sort_keys=True, default=repr).encode())
        random = np.random.default_rng(int.from_bytes(seed.digest()[:8], "little"))
        vectors = random.standard_normal((n, self.dimension)).astype(np.float32)
        text = [f"é {number}"] if n == 1 else [[f"é {number}"] * n]
        finish = "length" if number == 4 else "gen_emb"
        return SimpleNamespace(
            disc=None if mode == "gen" else vectors[:1],
            gen=None if mode == "disc" else (vectors if n == 1 else vectors[None]),
            reasoning=[] if mode == "disc" else text,
            summary=[] if mode == "disc" else text,
            finish=[] if mode == "disc" else [finish if n == 1 else [finish] * n],
            tokens=[] if mode == "disc" else [3 if n == 1 else [3] * n],
        )


@pytest.fixture
def numbered():
    return NumberedEmbedder()


@pytest.fixture
def collection(tmp_path):
    """5 lines of JSON with an empty one between, then 4 rows of parquet in two row groups."""
    lines = ['"a"', '{"id": "b", "text": "bee"}', "", '{"image": "c.png"}', '"é"', '{"text": "e"}']
    (tmp_path / "one.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = pyarrow.table(
        {
            "id": [10, 11, None, 13],
            "text": ["p", None, "r", "s"],
            "image": [None, {"bytes": b"png", "path": "q.png"}, None, None],
            "url": ["u"] * 4,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "two.parquet", row_group_size=3)
    return [tmp_path / "one.jsonl", tmp_path / "two.parquet"]


@pytest.fixture
def planned(tmp_path):
    """planned(files, options...) -> run, shards; the directory is made ready."""

    def make(files, shard_items=2, directory=None, **options) -> tuple[Run, list]:
        directory = directory or tmp_path / "out"
        directory.mkdir(exist_ok=True)
        scans = [inputs.scan(path, shard_items) for path in files]
        run, shards = plan(
            directory, scans, model="m@0", options=OPTIONS | options, shard_items=shard_items
        )
        run.take_over()
        return run, shards

    return make


@pytest.fixture
def whole(planned, numbered, tmp_path):
    """whole(files) -> what a run that nothing disturbs leaves: name -> bytes."""

    def make(files, **options):
        run, shards = planned(files, directory=tmp_path / "undisturbed", **options)
        worker = ShardWorker(run, lambda: numbered)
        return {run.shard_path(shard).name: _bytes(worker, run, shard) for shard in shards}

    return make


def _bytes(worker, run, shard):
    worker(shard)
    return run.shard_path(shard).read_bytes()
