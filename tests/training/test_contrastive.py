"""Options of the contrastive loss against their formulas."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from tests.training.sft_cases import with_negatives
from umer1.data.records import RecordError, read_sft
from umer1.training.collate import SFTBatch, collate_sft
from umer1.training.contrastive import Contrast
from umer1.training.encoded import encode_pair
from umer1.training.settings import SFTConfig
from umer1.training.twins import with_common_ids
from umer1.training.wrapped import LARGEST_SCALE, Trainee

N, M, H = 6, 4, 16


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    make = lambda: F.normalize(  # noqa: E731
        torch.randn(2 * N + M, H, dtype=torch.float64, generator=generator), dim=1
    )
    return make(), make()


def _batch(pair_ids=None, negatives=0):
    order = torch.randperm(2 * N + M, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(N) if pair_ids is None else torch.tensor(pair_ids)
    return SFTBatch([], order[:N], order[N : 2 * N], order[2 * N : 2 * N + negatives], ids,
                    100 + torch.arange(negatives), torch.ones(2))  # fmt: skip


def _nce(query, target, scale=50.0, ids=None, negative_ids=None):
    logits = scale * query @ target.T
    own = torch.eye(N, len(target), dtype=torch.bool)
    forward, backward = logits, logits[:, :N].T
    if ids is not None:
        every = torch.cat([ids, negative_ids])
        forward = logits.masked_fill((ids[:, None] == every) & ~own, -torch.inf)
        backward = backward.masked_fill((ids[:, None] == ids) & ~own[:, :N], -torch.inf)
    labels = torch.arange(N)
    return (F.cross_entropy(forward, labels) + F.cross_entropy(backward, labels)) / 2


def _sides(vectors, batch):
    return vectors[batch.query_rows], vectors[torch.cat([batch.target_rows, batch.negative_rows])]


def test_alignment_adds_the_mean_of_both_crossings(vectors):
    gen, disc = vectors
    batch = _batch()
    (gen_query, gen_target), (disc_query, disc_target) = (_sides(each, batch) for each in vectors)
    found = Contrast(align_weight=0.3)(gen, disc, batch)
    crossed = (_nce(gen_query, disc_target) + _nce(disc_query, gen_target)) / 2
    plain = _nce(gen_query, gen_target) + _nce(disc_query, disc_target)
    torch.testing.assert_close(found.align, crossed)
    torch.testing.assert_close(found.total, plain + 0.3 * crossed)


def test_matryoshka_adds_the_loss_of_normalised_prefixes(vectors):
    gen, disc = vectors
    batch = _batch()
    found = Contrast(matryoshka={4: 0.5, 8: 2.0})(gen, disc, batch)
    wanted = 0.0
    for size, weight in ((H, 1.0), (4, 0.5), (8, 2.0)):
        for each in vectors:
            sides = _sides(F.normalize(each[:, :size], dim=1), batch)
            wanted = wanted + weight * _nce(*sides)
    torch.testing.assert_close(found.total, wanted)
    torch.testing.assert_close(found.gen, _nce(*_sides(gen, batch)))


@pytest.mark.parametrize("masked", [False, True])
def test_hard_negatives_are_targets_that_nobody_has(vectors, masked):
    gen, disc = vectors
    batch = _batch([7, 8, 7, 9, 100, 10], negatives=M)  # pair 4 means what the first negative says
    found = Contrast(mask_duplicates=masked)(gen, disc, batch)
    ids = (batch.pair_ids, batch.negative_ids) if masked else ()
    wanted = sum(_nce(*_sides(each, batch), 50.0, *ids) for each in vectors)
    torch.testing.assert_close(found.total, wanted)


def test_equal_ids_are_no_negatives_and_equal_hits(vectors):
    gen, disc = vectors
    batch = _batch([1, 2, 3, 2, 5, 1])
    found = Contrast(mask_duplicates=True)(gen, disc, batch)
    wanted = sum(
        _nce(*_sides(each, batch), 50.0, batch.pair_ids, batch.negative_ids) for each in vectors
    )
    torch.testing.assert_close(found.total, wanted)
    query, target = _sides(disc, batch)
    right = batch.pair_ids[(query @ target.T).argmax(1)] == batch.pair_ids
    assert float(found.disc_hit) == pytest.approx(float(right.float().mean()))


def test_the_scale_learns_and_is_held_at_its_limit(vectors):
    gen, disc = vectors
    trainee = Trainee(torch.nn.Identity(), scale=90.0)
    loss = Contrast()(gen, disc, _batch(), trainee.scale()).total
    loss.backward()
    assert float(trainee.log_scale.grad) != 0
    with torch.no_grad():
        trainee.log_scale.add_(1.0)
    trainee.clamp_scale()
    assert float(trainee.scale().detach()) == pytest.approx(LARGEST_SCALE, rel=1e-6)
    with pytest.raises(ValueError, match="scale: got 200"):
        Trainee(torch.nn.Identity(), scale=200.0)


def test_ids_come_from_the_data_or_the_target(records, sft_config, tmp_path):
    rows = json.loads((records / "sft.json").read_text())[16:22:2]  # bird, cat, dog
    rows[0]["pos_id"] = rows[2]["pos_id"] = "the same"
    rows[1]["neg"] = [rows[2]["pos"], rows[0]["pos"]]
    (tmp_path / "sft.json").write_text(json.dumps(rows))
    pairs = read_sft(tmp_path / "sft.json", records)
    processor = with_negatives(records, sft_config, (0,))[1]
    encoded = [encode_pair(pair, processor, 999, "record") for pair in pairs]
    encoded[1] = encode_pair(pairs[1], processor, 999, "record", hard_negatives=1)
    batch = with_common_ids(collate_sft(encoded))
    ids = batch.pair_ids.tolist()
    assert ids[0] == ids[2] != ids[1]
    assert batch.negative_ids.tolist() == [ids[2]]  # by its content
    with pytest.raises(
        ValueError, match="record 0: has 0 sides under 'neg', hard_negatives wants 1"
    ):
        encode_pair(pairs[0], processor, 999, "record 0", hard_negatives=1)
    rows[1]["neg"] = "wrong"
    (tmp_path / "sft.json").write_text(json.dumps(rows))
    with pytest.raises(RecordError, match="record 1: field 'neg' wants a list"):
        read_sft(tmp_path / "sft.json", records)


@pytest.mark.parametrize("change, message", [
    (dict(align_weight=-1.0), "align_weight"), (dict(microbatch_tokens=-1), "microbatch_tokens"),
    (dict(generative=False, align_weight=1.0), "align_weight: wants generative"),
    (dict(matryoshka={8: -1.0}), "matryoshka: got 8: -1.0, wants .* above 0"),
    (dict(matryoshka={"8": 1.0}), "matryoshka: got '8'"), (dict(hard_negatives=-2), "hard_negatives"),
])  # fmt: skip
def test_settings_that_make_no_sense_name_themselves(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SFTConfig(), **change)
