"""The SFT loss against the paper's formulas, written out per sequence, without packing or sharing."""

import pytest
import torch
import torch.nn.functional as F

from umer1.data.records import read_sft
from umer1.model.sequence import pack
from umer1.training.collate import collate_sft, encode_side
from umer1.training.objectives import group_advantage, sft_loss
from umer1.training.start import open_pairs, start


@pytest.fixture
def world(sft_config):
    pairs = open_pairs(sft_config, "sft")
    model, processor = start(sft_config, pairs)
    chosen = [pairs[index] for index in (0, 1, 9, 10, 17, 20)]
    encoded = [
        tuple(encode_side(side, processor, 999, "record") for side in (p.query, p.target))
        for p in chosen
    ]
    return model.double(), processor, encoded


def _double(packed):
    return packed.to("cpu", torch.float64)


def _nce(query, target, scale, keep=None):
    logits = scale * query @ target.T
    if keep is not None:
        logits = logits.masked_fill(~keep, float("-inf"))
    labels = torch.arange(len(query))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _plain(model, processor, encoded, mask_duplicates=False):
    """Facts of the release: scale 50, symmetric, gen-gen + disc-disc + CE_q + CE_p, every sequence by itself."""
    gen, disc, losses = ([], []), ([], []), ([], [])
    for pair in encoded:
        for side, one in enumerate(pair):
            hidden = model(_double(pack([one.sequence])))
            ids = one.sequence.input_ids
            gen[side].append(
                F.normalize(hidden[(ids == processor.gen_id).nonzero()[-1, 0]], dim=-1)
            )
            disc[side].append(
                F.normalize(hidden[(ids == processor.disc_id).nonzero()[-1, 0]], dim=-1)
            )
            logits = hidden[:-1] @ model.head_weight.T
            losses[side].append(F.cross_entropy(logits, one.labels[1:], ignore_index=-100, reduction="none")
                                [one.labels[1:] != -100])  # fmt: skip
    keep = None
    if mask_duplicates:
        keys = [pair[1].key for pair in encoded]
        keep = torch.tensor(
            [[i == j or keys[i] != keys[j] for j in range(len(keys))] for i in range(len(keys))]
        )
    stack = lambda sides: (torch.stack(sides[0]), torch.stack(sides[1]))  # noqa: E731
    nce_gen, nce_disc = _nce(*stack(gen), 50, keep), _nce(*stack(disc), 50, keep)
    return nce_gen, nce_disc, torch.cat(losses[0]).mean(), torch.cat(losses[1]).mean()


@pytest.mark.parametrize("mask_duplicates", [False, True])
def test_loss_and_gradient_equal_the_formulas(world, mask_duplicates):
    model, processor, encoded = world
    batch = collate_sft(encoded)
    assert len(batch.packed.lengths) < 2 * len(encoded)  # shared targets went through once
    batch.packed = _double(batch.packed)
    ours = sft_loss(model(batch.packed), model.head_weight, batch, gen_id=processor.gen_id, disc_id=processor.disc_id,
                    mask_duplicates=mask_duplicates)  # fmt: skip
    ours.total.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    plain = _plain(model, processor, encoded, mask_duplicates)
    for name, value in zip(("gen", "disc", "ce_query", "ce_target"), plain):
        torch.testing.assert_close(getattr(ours, name).double(), value, atol=1e-5, rtol=1e-5)
    sum(plain).backward()
    for ours_gradient, parameter in zip(gradients, model.parameters()):
        torch.testing.assert_close(ours_gradient, parameter.grad, atol=2e-5, rtol=1e-4)


def test_dume_is_the_disc_term_alone(world):
    model, processor, encoded = world
    batch = collate_sft(encoded)
    batch.packed = _double(batch.packed)
    ids = dict(gen_id=processor.gen_id, disc_id=processor.disc_id)
    hidden = model(batch.packed)
    both = sft_loss(hidden, model.head_weight, batch, **ids)
    dume = sft_loss(hidden, model.head_weight, batch, generative=False, **ids)
    torch.testing.assert_close(dume.total, both.disc)
    assert float(dume.gen) == float(dume.ce_query) == 0


def test_a_response_without_gen_token_is_refused_by_name(world, records):
    """Hazard H2: the release silently reads the `<gen_emb>` of the instruction."""
    _, processor, _ = world
    side = read_sft(records / "sft.json", records)[0].query
    side.response = "<think>cut off"
    with pytest.raises(ValueError, match="record 7.*has no <gen_emb>"):
        encode_side(side, processor, 999, "record 7")
    side.response = "<think>x</think><answer>x\n<gen_emb>"
    with pytest.raises(ValueError, match="record 7.*more than max_length 20"):
        encode_side(side, processor, 20, "record 7")


def test_advantage_is_centred_and_scaled_within_each_group():
    reward = torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    advantage = group_advantage(reward)
    deviation = reward[0].std(unbiased=True) + 1e-4
    torch.testing.assert_close(advantage[0], (reward[0] - 1.0) / deviation)
    assert torch.equal(advantage[1], torch.zeros(4))
