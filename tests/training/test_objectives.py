"""The SFT loss against the paper's formulas, written out per sequence, without packing or sharing."""

import pytest
import torch
import torch.nn.functional as F

from tests.training.sft_cases import (
    Alone,
    batch_of,
    encoded_pairs,
    gradients,
    objective,
    trainee_of,
)
from umer1.data.records import read_sft
from umer1.model.sequence import pack
from umer1.training.encoded import encode_pair, encode_side
from umer1.training.grad_cache import add_gradients
from umer1.training.objectives import group_advantage


@pytest.fixture
def world(sft_config):
    model, processor, encoded = encoded_pairs(sft_config)
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
        for side, one in enumerate((pair.query, pair.target)):
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
        keys = [pair.target.key for pair in encoded]
        keep = torch.tensor(
            [[i == j or keys[i] != keys[j] for j in range(len(keys))] for i in range(len(keys))]
        )
    stack = lambda sides: (torch.stack(sides[0]), torch.stack(sides[1]))  # noqa: E731
    nce_gen, nce_disc = _nce(*stack(gen), 50, keep), _nce(*stack(disc), 50, keep)
    return nce_gen, nce_disc, torch.cat(losses[0]).mean(), torch.cat(losses[1]).mean()


@pytest.mark.parametrize("mask_duplicates", [False, True])
def test_loss_and_gradient_equal_the_formulas(world, mask_duplicates):
    model, processor, encoded = world
    batch = batch_of(encoded, torch.float64)
    assert len(batch.parts[0].packed.lengths) < 2 * len(encoded)  # shared targets went through once
    trainee = trainee_of(model, torch.float64)
    wanted = objective(processor, mask_duplicates=mask_duplicates)
    numbers, ours = gradients(trainee, batch, wanted)
    plain = _plain(model, processor, encoded, mask_duplicates)
    for name, value in zip(("gen", "disc", "ce_query", "ce_target"), plain):
        torch.testing.assert_close(
            getattr(numbers, name).double(), value.detach(), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(numbers.total.double(), sum(plain).detach(), atol=1e-5, rtol=1e-5)
    sum(plain).backward()
    for name, parameter in trainee.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=2e-5, rtol=1e-4)


def test_dume_is_the_disc_term_alone_and_reads_no_response(world, sft_config):
    model, processor, encoded = world
    trainee = trainee_of(model, torch.float64)
    both = gradients(trainee, batch_of(encoded, torch.float64), objective(processor))[0]
    short = encoded_pairs(sft_config, generative=False)[2]
    batch = batch_of(short, torch.float64)
    assert all(int(side.sequence.input_ids[-1]) == processor.disc_id
               for pair in short for side in (pair.query, pair.target))  # fmt: skip
    assert batch.tokens < batch_of(encoded).tokens / 1.5
    dume = gradients(trainee, batch, objective(processor, generative=False))[0]
    torch.testing.assert_close(dume.total, both.disc)
    assert float(dume.gen) == float(dume.ce_query) == 0


def test_dume_needs_no_response(world, records):
    processor = world[1]
    pair = read_sft(records / "sft.json", records)[17]
    pair.query.response = None
    assert (
        encode_pair(pair, processor, 999, "record 17", generative=False).query.labels.max() == -100
    )
    with pytest.raises(ValueError, match="record 17, qry: has no response"):
        encode_pair(pair, processor, 999, "record 17")


def test_a_step_divided_by_the_accumulation_adds_up_to_the_mean(world):
    """Four batches of two: their gradients together are that of the four losses' mean."""
    model, processor, encoded = world
    trainee, wanted = trainee_of(model, torch.float64), objective(processor)
    batches = [batch_of(encoded[start : start + 2], torch.float64) for start in (0, 1, 2, 4)]
    each = [gradients(trainee, batch, wanted)[1] for batch in batches]
    for batch in batches:
        add_gradients(trainee, batch, wanted, Alone(), factor=1 / 4, last=batch is batches[-1])
    for name, parameter in trainee.named_parameters():
        mean = sum(found.get(name, 0.0) for found in each) / 4
        torch.testing.assert_close(parameter.grad, mean, atol=1e-12, rtol=1e-9)


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
