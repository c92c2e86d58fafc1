"""A run that is killed, anywhere and often, ends with the bytes of one that nobody disturbed; so
does one of several processes.
"""

import os
import random
import threading
from contextlib import suppress
from importlib import import_module

import pytest

from umer1 import parts
from umer1.evaluation import evaluate
from umer1.evaluation.running.ranks import Ranks

OPTIONS = {"names": ["digit", "pages"], "samples": 2, "model_id": "a", "progress": False}
# what a process does to its directory
CALLS = ("replace", "fsync", "unlink", "rmdir", "mkdir")


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 2)


@pytest.fixture
def content():
    """Names and bytes of every file below a directory."""

    def read(directory):
        files = [path for path in directory.rglob("*") if path.is_file()]
        return {str(path.relative_to(directory)): path.read_bytes() for path in files}

    return read


@pytest.fixture
def killable(monkeypatch, fake_embedder_class, benchmark_dir):
    """killable(out, moment) runs until its `moment`-th call of embedder or system, after which
    nothing works any more; returns (the embedder, whether it came to its end).
    """

    def run(out, moment, **options):
        left = [moment]

        def counted(work):
            def call(*arguments, **keywords):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return work(*arguments, **keywords)

            return call

        embedder = fake_embedder_class()
        embedder.embed = counted(embedder.embed)
        with monkeypatch.context() as patched, suppress(Killed):
            for name in CALLS:
                patched.setattr(os, name, counted(getattr(os, name)))
            evaluate(embedder, benchmark_dir, output_dir=out, **OPTIONS, **options)
        return embedder, left[0]

    return run


def test_a_kill_at_any_moment_changes_no_byte(killable, content, tmp_path):
    _, left = killable(tmp_path / "whole", 10_000)
    moments = 10_000 - left
    whole = content(tmp_path / "whole")
    assert "report.json" in whole and not any(name.startswith(".") for name in whole)
    items, computed = 16 + 7, []
    chance, step = random.Random(0), moments // 16
    for moment in (chance.randrange(start, start + step) for start in range(0, 16 * step, step)):
        out = tmp_path / str(moment)
        killable(out, moment)
        again, _ = killable(out, 10_000)
        computed.append(sum(call["items"] for call in again.calls))
        assert content(out) == whole, f"killed at {moment} of {moments}"
    assert computed[0] > items / 2 and computed[-1] < 4
    # item by item: not only whole sides and tasks are there
    assert len(set(computed)) > 4


def test_a_run_killed_over_and_over_ends(killable, content, tmp_path):
    killable(tmp_path / "whole", 10_000)
    whole, out, chance = content(tmp_path / "whole"), tmp_path / "out", random.Random(1)
    kills = 0
    while killable(out, chance.randrange(80))[1] < 0:
        kills += 1
        assert kills < 1000
    assert kills > 3
    assert content(out) == whole


def test_what_has_finished_is_not_computed_again(killable, tmp_path):
    # killed in the middle of the queries: parts of two are on disk, the last one may be lost
    first, _ = killable(tmp_path, 60)
    again, _ = killable(tmp_path, 10_000)
    done = 23 - sum(call["items"] for call in again.calls)
    assert 0 < done < 23 and done % 2 == 0


def test_an_interrupted_run_keeps_every_item(fake_embedder_class, benchmark_dir, tmp_path):
    class Interrupted(fake_embedder_class):
        def stream(self, items, **options):
            for number, result in enumerate(super().stream(items, **options)):
                if number == 3:
                    raise KeyboardInterrupt
                yield result

    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(), benchmark_dir, output_dir=tmp_path / "out", **OPTIONS)
    again = fake_embedder_class()
    evaluate(again, benchmark_dir, output_dir=tmp_path / "out", **OPTIONS)
    assert [call["items"] for call in again.calls] == [16 - 3, 7]


def test_samples_go_by_the_places_of_the_queries(fake_embedder_class, benchmark_dir, tmp_path):
    """What an item is called for its seed does not depend on what is there already."""
    asked = []

    class Records(fake_embedder_class):
        def stream(self, items, **options):
            asked.append((options["n"], options["numbers"]))
            for number, result in enumerate(super().stream(items, **options)):
                if options["n"] > 1 and number == 2 and len(asked) < 3:
                    raise KeyboardInterrupt
                yield result

    with pytest.raises(KeyboardInterrupt):
        evaluate(Records(), benchmark_dir, output_dir=tmp_path / "out", **OPTIONS)
    evaluate(Records(), benchmark_dir, output_dir=tmp_path / "out", **OPTIONS)
    sampled = [numbers for count, numbers in asked if count > 1]
    assert sampled[0] == [0, 1, 2, 3, 0, 1, 2]
    # the two that finished, digit's 2 and 1, are not asked for again
    assert sampled[1] == [0, 3, 0, 1, 2]


def test_items_of_other_tasks_stay(killable, fake_embedder_class, benchmark_dir, tmp_path):
    killable(tmp_path, 60)
    folders = {path.name for path in (tmp_path / ".items").iterdir() if path.is_dir()}
    assert folders
    names = {"names": ["sum"], "model_id": "a", "progress": False}
    evaluate(fake_embedder_class(), benchmark_dir, output_dir=tmp_path, **names)
    assert folders == {path.name for path in (tmp_path / ".items").iterdir() if path.is_dir()}


def test_a_directory_has_one_writer(fake_embedder_class, benchmark_dir, tmp_path):
    class Second(fake_embedder_class):
        def stream(self, items, **options):
            with pytest.raises(ValueError, match="another process is writing there"):
                evaluate(fake_embedder_class(), benchmark_dir, output_dir=tmp_path, **OPTIONS)
            return super().stream(items, **options)

    evaluate(Second(), benchmark_dir, output_dir=tmp_path, **OPTIONS)
    assert not (tmp_path / ".items").exists()


class Threads(Ranks):
    """Processes of one run as threads of this one: their numbers are their threads' names."""

    def __init__(self, count, barrier):
        self.rank, self.count, self._barrier = int(threading.current_thread().name), count, barrier

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if any(error):
            self._barrier.abort()

    def in_first(self, work):
        made = work() if self.first else None
        self._barrier.wait()
        return made

    def meet(self, meanwhile=None):
        # the others are slower by a while
        for _ in range(3 if meanwhile else 0):
            meanwhile()
        self._barrier.wait()


@pytest.fixture
def in_threads(monkeypatch, benchmark_dir):
    """in_threads(out, embedders): one process per embedder; returns what they returned."""

    def run(out, embedders):
        barrier, results = threading.Barrier(len(embedders), timeout=60), {}
        make = lambda: Threads(len(embedders), barrier)  # noqa: E731
        # the function of the same name hides the module
        monkeypatch.setattr(import_module("umer1.evaluation.evaluate"), "Ranks", make)

        def work(number):
            with suppress(Killed, threading.BrokenBarrierError):
                results[number] = evaluate(
                    embedders[number], benchmark_dir, output_dir=out, **OPTIONS
                )

        threads = [
            threading.Thread(target=work, args=[number], name=str(number))
            for number in range(len(embedders))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_what_one_writes(
    killable, in_threads, fake_embedder_class, content, tmp_path, count
):
    killable(tmp_path / "whole", 10_000)
    embedders = [fake_embedder_class() for _ in range(count)]
    results = in_threads(tmp_path / "out", embedders)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    shares = [sum(call["items"] for call in each.calls) for each in embedders]
    assert sum(shares) == 23 and min(shares) >= 23 // count - 3
    assert all(results[number].to_dict() == results[0].to_dict() for number in range(count))


def test_a_run_of_two_that_was_killed_goes_on_with_one_or_three(
    killable, in_threads, fake_embedder_class, content, tmp_path
):
    killable(tmp_path / "whole", 10_000)

    class Dies(fake_embedder_class):
        def stream(self, items, **options):
            for number, result in enumerate(super().stream(items, **options)):
                if number == 5:
                    raise Killed
                yield result

    for count in (1, 3):
        out = tmp_path / str(count)
        assert in_threads(out, [fake_embedder_class(), Dies()]) == {}
        embedders = [fake_embedder_class() for _ in range(count)]
        in_threads(out, embedders)
        assert 0 < sum(call["items"] for each in embedders for call in each.calls) < 23
        assert content(out) == content(tmp_path / "whole")
