"""Which targets mean the same: by what they are, by what the data calls them, in all processes."""

import dataclasses
import json

import torch
import torch.distributed as dist
import torch.multiprocessing

from tests.training.sft_cases import batch_of, encoded_pairs, gradients, objective, trainee_of
from umer1.data.records import read_sft
from umer1.training.collate import SFTBatch, collate_sft
from umer1.training.encoded import encode_pair
from umer1.training.start import start
from umer1.training.twins import with_common_ids

NONE = torch.zeros(0, dtype=torch.int64)


def batch_with(contents, names, negatives=0):
    contents = torch.tensor(contents)
    pairs = len(contents) - negatives
    return SFTBatch(
        [], NONE, NONE, NONE, contents[:pairs], contents[pairs:], torch.ones(2), torch.tensor(names)
    )


def classes(ids):
    """Equal numbers for equal ids, in the order in which they come."""
    first = {}
    return [first.setdefault(number, len(first)) for number in ids.tolist()]


def ids_of(batch):
    return torch.cat([batch.pair_ids, batch.negative_ids])


def test_equal_contents_and_equal_names_are_one_target():
    # targets 5, 6, 7, 5 and hard negatives 6, 8; the second is called what the third is called
    batch = batch_with([5, 6, 7, 5, 6, 8], [5, 90, 90, 5, 6, 91], negatives=2)
    found = with_common_ids(batch)
    assert classes(ids_of(found)) == [0, 1, 1, 0, 1, 2]
    assert len(found.pair_ids) == 4


def test_a_target_with_two_names_joins_them():
    batch = batch_with([1, 1, 2, 3, 4], [91, 92, 91, 92, 93])
    assert classes(ids_of(with_common_ids(batch))) == [0, 0, 0, 0, 1]


def test_without_names_nothing_changes():
    batch = dataclasses.replace(batch_with([4, 3, 4], [0, 0, 0]), names=None)
    assert with_common_ids(batch).pair_ids.tolist() == [4, 3, 4]


def _process(rank, store, folder):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    # a hard negative here is the target there, which only that record gives a name
    batches = [
        batch_with([10, 11, 12], [90, 11, 12], 1),
        batch_with([12, 13, 14], [90, 13, 14], 1),
    ]
    torch.save(ids_of(with_common_ids(batches[rank], dist.group.WORLD)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_tell_each_other_their_names(tmp_path):
    torch.multiprocessing.spawn(_process, (tmp_path / "store", tmp_path), nprocs=2)
    ids = torch.cat([torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)])
    assert classes(ids) == [0, 1, 0, 0, 2, 3]


def test_a_target_is_its_text_and_media_not_its_response(records, sft_config):
    pairs = read_sft(records / "sft.json", records)
    processor = start(sft_config, pairs)[1]
    other = dataclasses.replace(pairs[0].target, response="<think>No.</think><answer>no\n<gen_emb>")
    twin = dataclasses.replace(pairs[1], target=other)
    for generative, sequences in ((True, 4), (False, 3)):
        encoded = [
            encode_pair(pair, processor, 999, "record", generative=generative)
            for pair in (pairs[0], twin)
        ]
        batch = collate_sft(encoded)
        assert batch.pair_ids[0] == batch.pair_ids[1]
        # without generation their responses are not read: one sequence serves both
        assert sum(len(part.packed.lengths) for part in batch.parts) == sequences


def test_a_hard_negative_that_is_another_records_target_is_masked(records, sft_config, tmp_path):
    """Also where that record has a `pos_id`, which the negative has not."""
    rows = json.loads((records / "sft.json").read_text())[16:22:2]  # bird, cat, dog
    rows[0]["pos_id"] = "a name"
    other_words = {**rows[2]["qry"], "pos_id": "a name"}
    for row, negative in zip(rows, (rows[1]["pos"], rows[0]["pos"], other_words)):
        row["neg"] = [negative]
    (tmp_path / "sft.json").write_text(json.dumps(rows))
    pairs = read_sft(tmp_path / "sft.json", records)
    model, processor, _ = encoded_pairs(sft_config, (0,))
    encoded = [encode_pair(pair, processor, 999, "r", hard_negatives=1) for pair in pairs]
    batch = batch_of(encoded)
    common = with_common_ids(batch)
    assert classes(ids_of(common)) == [0, 1, 2, 1, 0, 0]

    trainee, wanted = trainee_of(model), objective(processor, mask_duplicates=True)
    masked, by_ids, by_content = (
        gradients(trainee, each, wanted)[0].disc
        for each in (batch, common, dataclasses.replace(batch, names=None))
    )
    assert masked == by_ids < by_content
