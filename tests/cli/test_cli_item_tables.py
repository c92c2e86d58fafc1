"""Pictures that a Parquet file holds: read when they are needed, with a few rows in memory."""

import subprocess
import sys

import numpy as np
import pytest

from umer1.cli.items import read_items
from umer1.cli.journal import describe_run
from umer1.media import load_image, load_video

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

MIB = 1 << 20
# prints what pyarrow and Python held at most while every picture was read, in MiB
READ_ALL = """
import sys, tracemalloc, pyarrow
from umer1.cli.items import read_items
tracemalloc.start()
_, items = read_items([sys.argv[1]])
assert sum(len(item["image"].read_bytes()) for item in items) == len(items) << 20
print(pyarrow.default_memory_pool().max_memory() >> 20, tracemalloc.get_traced_memory()[1] >> 20)
"""


# the least that can be read is a page: few rows of one large row group, all rows of a small one
@pytest.mark.parametrize(("group_rows", "page_rows"), [(160, 4), (16, 1024)])
def test_memory_does_not_grow_with_the_table(tmp_path, group_rows, page_rows):
    random = np.random.default_rng(0)
    rows = [{"bytes": random.bytes(MIB), "path": f"{n}.png"} for n in range(160)]
    path = tmp_path / "rows.parquet"
    options = {"row_group_size": group_rows, "write_batch_size": page_rows}
    parquet.write_table(pyarrow.table({"image": rows}), path, **options)
    command = [sys.executable, "-c", READ_ALL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert max(map(int, done.stdout.split())) < 80


def test_pictures_are_read_in_any_order(tmp_path):
    contents = [f"{n}".encode() * (1 + n % 3) for n in range(100)]
    rows = [{"bytes": content, "path": None} for content in contents]
    lists = [[row, {"bytes": None, "path": "p.png"}, rows[n - 1]] for n, row in enumerate(rows)]
    for name, column in (("image", rows), ("images", lists), ("video", contents)):
        path = tmp_path / f"{name}.parquet"
        table = pyarrow.table({"id": range(100), name: column})
        parquet.write_table(table, path, row_group_size=37)
        _, items = read_items([str(path)])
        for number in [*range(100), *np.random.default_rng(1).permutation(100).tolist()]:
            value = items[number][name]
            if name == "images":
                assert value[1] == str(tmp_path / "p.png")
                assert value[2].read_bytes() == contents[number - 1]
                value = value[0]
            assert value.read_bytes() == contents[number]


def test_media_are_opened_and_told_apart(photos, tmp_path):
    path = tmp_path / "rows.parquet"
    content = (photos / "p1.png").read_bytes()
    parquet.write_table(pyarrow.table({"id": ["a"], "image": [content]}), path)
    ids, items = read_items([str(path)])
    medium = items[0]["image"]
    assert load_image(medium).tobytes() == load_image(content).tobytes()
    assert len(load_video(medium)) == len(load_video(content)) == 1
    run = describe_run(ids, items, mode="gen")
    again = read_items([str(path)])
    assert describe_run(*again, mode="gen") == run
    other = (photos / "p2.png").read_bytes()
    parquet.write_table(pyarrow.table({"id": ["a"], "image": [other]}), path)
    assert describe_run(*read_items([str(path)]), mode="gen") != run
    with pytest.raises(ValueError, match="rows.parquet: row 0: changed while in use"):
        again[1][0]["image"].read_bytes()
