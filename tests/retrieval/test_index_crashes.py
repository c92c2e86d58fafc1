"""Kills and failures while an index is written: what was acknowledged is there, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import umer1
from umer1.retrieval import VectorIndex

WRITER = Path(__file__).with_name("killed_writer.py")


def killed(directory, kills):
    root = Path(umer1.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, WRITER, directory, str(kills), "0"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_four_kills_lose_and_invent_nothing(tmp_path):
    assert killed(tmp_path / "a", 4)["steps"] > 4


@pytest.mark.slow
def test_fifty_kills_lose_and_invent_nothing(tmp_path):
    result = killed(tmp_path / "a", 50)
    assert result["steps"] > 100
    assert result["items"] > 50


class Stop(BaseException):
    """Ends a write where it is, as a kill does."""


CHANGES = {
    "add": lambda index, unit: index.add(["x", "y"], {"disc": unit(5, 2), "gen": unit(6, 2)}),
    "replace": lambda index, unit: index.add(
        ["p1", "x"], {"disc": unit(5, 2), "gen": unit(6, 2)}, replacing=True
    ),
    "delete": lambda index, unit: index.delete(["p1", "p2"]),
    "optimize": lambda index, unit: index.optimize(),
}
CALLS = ("fsync", "replace", "unlink")


@pytest.mark.parametrize("change", CHANGES)
def test_a_stop_at_every_call_leaves_before_or_after(index, unit, monkeypatch, change):
    """The n-th call that reaches for the disk fails, for every n until none fails."""
    index.delete([f"p{number}" for number in range(40, 63)])
    real = {name: getattr(os, name) for name in CALLS}
    stops, number = 0, 0
    while True:
        before = _content(index.directory)
        count = iter(range(10**6))

        def failing(name, *arguments, count=count, number=number, **options):
            if next(count) == number:
                raise Stop
            return real[name](*arguments, **options)

        for name in CALLS:
            monkeypatch.setattr(os, name, lambda *a, name=name, **o: failing(name, *a, **o))
        try:
            CHANGES[change](index, unit)
            break
        except Stop:
            stops += 1
        finally:
            for name in CALLS:
                monkeypatch.setattr(os, name, real[name])
        after = _content(index.directory)
        if after != before:
            # the change came through: what remains is tidying up
            index = VectorIndex.open(index.directory)
            wanted = {"add": {"x", "y"}, "replace": {"x"}}.get(change, set())
            assert wanted <= set(after)
            break
        number += 1
    assert stops >= 3
    index = VectorIndex.open(index.directory)
    index.add(["later"], {"disc": unit(8, 1), "gen": unit(9, 1)})
    assert index.search({"gen": unit(9, 1)}, 1)[0][0].id == "later"
    assert _content(index.directory).keys() - {"later", "x", "y"} <= before.keys()


def _content(directory):
    index = VectorIndex.open(directory)
    return {
        name: (entry, index.vectors("disc", [number]).tobytes())
        for number, name, entry in index.items()
    }


def test_data_is_on_the_disk_before_the_manifest_names_it(index, unit, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor):
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *a: (order.append("renamed"), replace(*a)))
    index.add(["x"], {"disc": unit(5, 1), "gen": unit(6, 1)})
    renamed = order.index("renamed")
    files = {"disc.vectors", "gen.vectors", "items.jsonl", "items.ends", "data-000001"}
    assert files <= set(order[:renamed])
    assert order[renamed - 1].startswith(".index.json.")
    # and the name of the manifest itself, before the add is acknowledged
    assert order[renamed + 1 :] == [index.directory.name]


def test_what_a_kill_left_behind_is_cut_off(index, unit):
    folder = index.directory / "data-000001"
    for path in folder.iterdir():
        with open(path, "ab") as file:
            file.write(b"half a row")
    again = VectorIndex.open(index.directory)
    assert len(again) == 63
    again.add(["x"], {"disc": unit(5, 1), "gen": unit(6, 1)}, [{"text": "new"}])
    assert again.search({"gen": unit(6, 1)}, 1)[0][0].entry == {"text": "new"}
    np.testing.assert_array_equal(again.vectors("disc", range(63)), unit(0, 63))


def test_a_kill_while_creating_can_be_tried_again(tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    (place / "lock").touch()
    (place / ".index.json.123.tmp").write_text("{")
    with pytest.raises(ValueError, match="no index here"):
        VectorIndex.open(place)
    assert len(VectorIndex.create(place, model="m", dimension=4)) == 0


def test_writers_in_turn_see_each_other(index, unit):
    other = VectorIndex.open(index.directory)
    other.add(["x"], {"disc": unit(5, 1), "gen": unit(6, 1)})
    assert "x" not in index
    with pytest.raises(ValueError, match="'x' is in the index already"):
        index.add(["x"], {"disc": unit(5, 1), "gen": unit(6, 1)})
    index.add(["y"], {"disc": unit(7, 1), "gen": unit(8, 1)})
    assert other.refresh()
    assert not other.refresh()
    assert len(other) == len(index) == 65
