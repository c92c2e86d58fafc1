"""What tests of the SFT step share: encoded pairs, a batch in parts, the gradients of one step."""

import dataclasses
from contextlib import nullcontext

import torch

from umer1.data.records import read_sft
from umer1.training.collate import collate_sft
from umer1.training.contrastive import Contrast
from umer1.training.encoded import encode_pair
from umer1.training.grad_cache import SFTObjective, add_gradients
from umer1.training.start import open_pairs, start
from umer1.training.wrapped import Trainee

MIXED = (0, 1, 9, 10, 17, 20)  # images, videos, text alone, two images; some share their target


class Alone:
    """What add_gradients asks of a run, in one process."""

    def part(self, *, last):
        return nullcontext()

    def backward(self, loss):
        loss.backward()

    def largest(self, number):
        return number


def encoded_pairs(config, chosen=MIXED, **options):
    """(model, processor, encoded pairs) of the records that `chosen` numbers."""
    pairs = open_pairs(config, "sft")
    model, processor = start(config, pairs)
    encoded = [encode_pair(pairs[number], processor, 999, "record", **options) for number in chosen]
    return model, processor, encoded


def with_negatives(records, config, chosen=MIXED):
    """Encoded pairs with two hard negatives each: the next records' targets."""
    pairs = read_sft(records / "sft.json", records)
    model, processor = start(config, pairs)
    encoded = []
    for number in chosen:
        wrong = [pairs[(number + step) % len(pairs)].target for step in (2, 5)]
        pair = dataclasses.replace(pairs[number], negatives=wrong)
        encoded.append(encode_pair(pair, processor, 999, "record", hard_negatives=2))
    return model, processor, encoded


def objective(processor, *, group=None, generative=True, global_token_mean=False, **contrast):
    return SFTObjective(
        Contrast(group=group, **contrast), processor.gen_id, processor.disc_id,
        generative=generative, global_token_mean=global_token_mean,
    )  # fmt: skip


def batch_of(encoded, dtype=torch.float32, tokens=0):
    batch = collate_sft(encoded, microbatch_tokens=tokens)
    for part in batch.parts:
        part.packed = part.packed.to("cpu", dtype)
    return batch


def gradients(trainee, batch, wanted, run=None, **options):
    """(numbers, name -> gradient) of one step, which is forgotten again."""
    numbers = add_gradients(trainee, batch, wanted, run or Alone(), **options)
    found = {
        name.removeprefix("module."): each.grad.clone()
        for name, each in trainee.named_parameters()
        if each.grad is not None
    }
    trainee.zero_grad(set_to_none=True)
    return numbers, found


def trainee_of(model, dtype=torch.float32, scale=None):
    return Trainee(model.to(dtype), scale).to(dtype).train()


def assert_same(found, wanted, rtol):
    """Each gradient within rtol of its own largest number."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        bound = rtol * max(float(gradient.abs().max()), 1e-6)
        torch.testing.assert_close(found[name], gradient, atol=bound, rtol=0, msg=name)
