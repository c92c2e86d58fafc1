"""Batches made ahead of the model: the same with and without workers; bad media are named or replaced."""

import json
import pickle
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from umer1.data import open_sft
from umer1.media import MediaError
from umer1.training.bad_media import BadMedium, SkipLog, Skipped
from umer1.training.batching import GroupedBatches
from umer1.training.loading import MOST_IN_A_ROW, PairLoader, Share, shares
from umer1.training.settings import SFTConfig
from umer1.training.substitutes import Substitutes


class Texts:
    """Encodes a pair as its query's text after opening its media."""

    def __call__(self, pair, where):
        from umer1.media import load_image, load_video

        for image in pair.query.images:
            load_image(image, f"{where}, qry")
        if pair.query.video:
            load_video(pair.query.video, f"{where}, qry")
        return pair.query.text.split("\n")[-3]


@pytest.fixture
def folder(records, tmp_path):
    """The 24 records of `records`, with media that a test may break."""
    shutil.copytree(records, tmp_path / "data", ignore=shutil.ignore_patterns(".*"))
    return tmp_path / "data"


def loader(folder, tmp_path, batches=3, start=0, rank=0, world=1, **settings):
    store = open_sft(folder / "sft.json", folder)
    config = SFTConfig(output=str(tmp_path), seed=5, **settings)
    grouped = GroupedBatches([store.source_names[s] for s in store.sources], 8, 4, seed=1)
    asked = (
        share for _, share in zip(range(batches), shares(grouped, rank, world, start_batch=start))
    )
    return PairLoader(
        store, Texts(), list, asked, config, rank=rank, world_size=world, start_batch=start
    )


def contents(loader):
    return [(each.batch, each.numbers, each.places) for each in loader]


def test_workers_change_nothing(folder, tmp_path):
    alone = contents(loader(folder, tmp_path, batches=7))
    together = contents(loader(folder, tmp_path, batches=7, workers=2))
    assert alone == together
    assert len(alone) == 7 and all(len(batch) == 8 for batch, *_ in alone)


def test_a_resumed_run_sees_the_same_batches(folder, tmp_path):
    assert (
        contents(loader(folder, tmp_path, 4, start=3)) == contents(loader(folder, tmp_path, 7))[3:]
    )


def test_processes_share_a_batch(folder, tmp_path):
    (whole,) = contents(loader(folder, tmp_path, 1))
    parts = [contents(loader(folder, tmp_path, 1, rank=rank, world=2))[0] for rank in (0, 1)]
    assert parts[0][0] + parts[1][0] == whole[0]
    assert parts[1][2] == [4, 5, 6, 7]


def test_shares_by_length_are_even(folder, tmp_path):
    class OneBatch:
        def batches(self, start):
            yield from [[4, 0, 7, 2]] * 2

    lengths = np.array([5, 0, 100, 0, 90, 0, 0, 1])
    ranks = [list(shares(OneBatch(), rank, 2, lengths=lengths)) for rank in (0, 1)]
    totals = [sum(lengths[rank[0].batch[place]] for place in rank[0].places) for rank in ranks]
    assert sorted(totals) == [95, 101]
    assert [each.number for each in ranks[0]] == [0, 1]


def lost(folder):
    (folder / "3.png").unlink()
    return "no such file"


def cut(folder):
    content = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(content[: len(content) // 2])
    return "truncated or damaged"


def empty(folder):
    (folder / "3.png").write_bytes(b"")
    return "not an image"


def text(folder):
    (folder / "3.png").write_text("<html>404</html>")
    return "not an image"


def bomb(folder):
    """A small file whose header promises 3.6 thousand million pixels."""
    content = bytearray((folder / "3.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "3.png").write_bytes(content)
    return "exceeds limit"


def frame(folder):
    (folder / "9_1.png").unlink()
    return "frame 1: no such file"


DAMAGE = [lost, cut, empty, text, bomb, frame]


@pytest.mark.parametrize(("damage", "workers"), [(damage, 0) for damage in DAMAGE] + [(lost, 1)])
def test_a_bad_medium_is_fatal_and_named(folder, tmp_path, damage, workers):
    reason = damage(folder)
    number = 9 if damage is frame else 3
    with pytest.raises(BadMedium, match=reason) as caught:
        list(loader(folder, tmp_path, workers=workers))
    assert f"sft.json: record {number}, qry" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not list(tmp_path.glob("skipped*"))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_skip_replaces_it_by_another_of_its_source(folder, tmp_path, damage):
    before = contents(loader(folder, tmp_path))
    damage(folder)
    number = 9 if damage is frame else 3
    source = "videos" if damage is frame else "pictures"
    skipping = loader(folder, tmp_path, bad_media="skip")
    after = contents(skipping)
    assert skipping.skips.by_source == {source: 1}
    differences = [
        (old, new)
        for (_, olds, _), (_, news, _) in zip(before, after)
        for old, new in zip(olds, news)
        if old != new
    ]
    ((old, new),) = differences
    assert old == number
    span = range(8, 16) if damage is frame else range(8)
    assert new in span
    assert all(len(set(numbers)) == len(numbers) for _, numbers, _ in after)  # no silent twin
    (line,) = (tmp_path / "sft_skipped_pairs.0.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told["record"].endswith(f"sft.json: record {number}")
    assert told["replaced_by"].endswith(f"sft.json: record {new}")
    assert (told["kind"], told["source"]) == ("medium", source)
    assert f"1 pairs could not be used and were replaced ({source} 1)" in skipping.skips.summary()


def test_the_choice_is_the_same_with_workers_ranks_and_after_a_resume(folder, tmp_path):
    lost(folder), frame(folder)
    (folder / "5.png").unlink()
    whole = contents(loader(folder, tmp_path / "a", 6, bad_media="skip"))
    assert contents(loader(folder, tmp_path / "b", 6, bad_media="skip", workers=2)) == whole
    assert contents(loader(folder, tmp_path / "c", 2, start=4, bad_media="skip")) == whole[4:]
    ranks = [
        contents(loader(folder, tmp_path / "d", 6, rank=rank, world=4, bad_media="skip"))
        for rank in range(4)
    ]
    for step, (_, numbers, _) in enumerate(whole):
        assert [number for rank in ranks for number in rank[step][1]] == numbers


def test_substitutes_never_meet(folder):
    store = open_sft(folder / "sft.json", folder)
    substitutes = Substitutes(store, seed=7)
    batch = [0, 1, 2, 8, 9]  # three of "pictures", two of "videos"
    spares = {number: list(substitutes.of(number, batch, batch_number=4)) for number in batch}
    pictures, videos = ({0, 1, 2}, set(range(3, 8))), ({8, 9}, set(range(10, 16)))
    for members, rest in (pictures, videos):
        own = [spares[number][: len(rest) // len(members)] for number in members]
        own = [spare for each in own for spare in each]
        assert len(own) == len(set(own))
        assert all(sorted(spares[number]) == sorted(rest) for number in members)
    again = pickle.loads(pickle.dumps(substitutes))
    assert list(again.of(1, batch, batch_number=4)) == spares[1]
    others = [tuple(substitutes.of(1, batch, batch_number=number)) for number in range(8)]
    assert len(set(others)) > 1


def test_a_source_that_is_gone_ends_the_run(folder, tmp_path):
    for picture in folder.glob("*.png"):
        picture.unlink()
    with pytest.raises(ValueError, match="no such file.*; no other pair of '.*' is left"):
        list(loader(folder, tmp_path, bad_media="skip"))
    rows = json.loads((folder / "sft.json").read_text())[:8] * 20
    (folder / "sft.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=f"{MOST_IN_A_ROW} pairs of one source in a row"):
        list(loader(folder, tmp_path, bad_media="skip"))


def test_a_record_that_does_not_fit_is_skipped_as_a_record(folder, tmp_path):
    rows = json.loads((folder / "sft.json").read_text())
    rows[2]["pos"]["image"] = 7
    (folder / "sft.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="record 2, pos: 'image' wants") as caught:
        list(loader(folder, tmp_path))
    assert not isinstance(caught.value, MediaError)
    list(loader(folder, tmp_path, bad_media="skip"))
    (line,) = (tmp_path / "sft_skipped_pairs.0.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "record"


def _skipped(*batches):
    return [Skipped(batch, "r", f"s{batch % 2}", "medium", "gone", "q") for batch in batches]


def test_the_log_forgets_batches_that_come_again(tmp_path):
    log = SkipLog(tmp_path, "sft")
    assert log.summary() == "" and not log.path.exists()
    log.add(_skipped(*range(5)))
    again = SkipLog(tmp_path, "sft", start_batch=3)
    assert (again.count, dict(again.by_source)) == (3, {"s0": 2, "s1": 1})
    assert len(again.path.read_text().splitlines()) == 3


def test_a_log_whose_last_line_was_cut_goes_on(tmp_path):
    log = SkipLog(tmp_path, "sft")
    log.add(_skipped(0, 1, 2))
    content = log.path.read_text()
    log.path.write_text(content[:-20])
    for start in (3, 3):  # a second start meets what the first one left
        again = SkipLog(tmp_path, "sft", start_batch=start)
        assert again.count == 2
    again.add(_skipped(7))
    assert [json.loads(line)["batch"] for line in log.path.read_text().splitlines()] == [0, 1, 7]


def test_a_log_with_the_older_name_of_the_number_is_read(tmp_path):
    rows = [{"step": number, "source": "s"} for number in range(4)]
    (tmp_path / "sft_skipped_pairs.0.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    assert SkipLog(tmp_path, "sft", start_batch=2).count == 2


def test_the_first_process_looks_after_logs_of_ranks_that_are_gone(tmp_path):
    for rank in range(4):
        SkipLog(tmp_path, "sft", rank=rank, world_size=4).add(_skipped(0, 1, 2, 3))
    logs = [SkipLog(tmp_path, "sft", 2, rank, world_size=2) for rank in (0, 1)]
    assert [log.count for log in logs] == [2 + 4, 2]
    lines = [len(path.read_text().splitlines()) for path in tmp_path.glob("*.jsonl")]
    assert lines == [2, 2, 2, 2]


def test_a_stage_leaves_the_others_log_alone(tmp_path):
    """Both may write into one output directory."""
    SkipLog(tmp_path, "sft").add(_skipped(0, 1, 2))
    assert SkipLog(tmp_path, "rl", start_batch=0).count == 0
    assert SkipLog(tmp_path, "sft", start_batch=3).count == 3


def test_encoded_pairs_can_be_kept(folder, tmp_path):
    share = Share(0, [0, 1], [0, 1])
    store = open_sft(folder / "sft.json", folder)
    config = SFTConfig(output=str(tmp_path), cache_encoded=True)
    first, second = PairLoader(store, _Counting(), list, [share, share], config)
    assert first.batch == second.batch == [1, 2]


class _Counting:
    calls = 0

    def __call__(self, pair, where):
        self.calls += 1
        return self.calls


@pytest.mark.slow
def test_sft_trains_with_workers_as_without(sft_config, tmp_path):
    from umer1.training.sft import run

    def losses(config):
        run(config, progress=False)
        lines = (tmp_path / config.output / "sft_metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["total"] for line in lines]

    alone = losses(replace(sft_config, steps=2))
    together = losses(replace(sft_config, steps=2, workers=2, output=str(tmp_path / "workers")))
    assert alone == together
