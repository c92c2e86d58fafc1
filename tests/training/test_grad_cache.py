"""GradCache: the gradient of a batch in parts is that of the batch."""

import torch

from tests.training.sft_cases import (
    MIXED,
    Alone,
    assert_same,
    batch_of,
    encoded_pairs,
    gradients,
    objective,
    trainee_of,
    with_negatives,
)
from umer1.training.grad_cache import add_gradients, room_of
from umer1.training.lora import add_lora
from umer1.training.settings import LoRAConfig

EVERYTHING = dict(align_weight=0.3, mask_duplicates=True, matryoshka={8: 0.5, 16: 1.0})


def test_parts_give_the_gradient_of_the_whole(sft_config):
    model, processor, encoded = encoded_pairs(sft_config)
    trainee, wanted = trainee_of(model), objective(processor)
    numbers, whole = gradients(trainee, batch_of(encoded), wanted)
    for tokens in (60, 1):  # a few sequences each, one each
        batch = batch_of(encoded, tokens=tokens)
        assert len(batch.parts) > 2
        found, parts = gradients(trainee, batch, wanted)
        torch.testing.assert_close(torch.stack(found), torch.stack(numbers), rtol=1e-5, atol=1e-6)
        assert_same(parts, whole, 3e-6)


def test_all_options_at_once_in_parts(sft_config, records):
    """Hard negatives, alignment, duplicates, Matryoshka, learnable scale, checkpointing; exact in double."""
    model, processor, encoded = with_negatives(records, sft_config)
    trainee = trainee_of(model, torch.float64, scale=20.0)
    wanted = objective(processor, **EVERYTHING)
    whole = gradients(trainee, batch_of(encoded, torch.float64), wanted, factor=0.5)
    assert float(whole[1]["log_scale"].abs()) > 0
    model.gradient_checkpointing = True
    batch = batch_of(encoded, torch.float64, 60)
    assert len(batch.parts) > 2
    parts = gradients(trainee, batch, wanted, factor=0.5)
    torch.testing.assert_close(torch.stack(parts[0]), torch.stack(whole[0]), rtol=1e-6, atol=1e-7)
    # vectors and their gradients are float64; the losses' values are float32 sums in places
    assert_same(parts[1], whole[1], 1e-9)


def test_dume_in_parts(sft_config):
    model, processor, encoded = encoded_pairs(sft_config, generative=False)
    trainee, wanted = trainee_of(model, torch.float64), objective(processor, generative=False)
    whole = gradients(trainee, batch_of(encoded, torch.float64), wanted)[1]
    parts = gradients(trainee, batch_of(encoded, torch.float64, 40), wanted)[1]
    assert_same(parts, whole, 1e-9)


def test_dropout_drops_the_same_in_both_passes(sft_config, monkeypatch):
    """The vectors whose gradient is taken are those that the gradient passes through."""
    model, processor, encoded = encoded_pairs(sft_config)
    add_lora(model, LoRAConfig(rank=4, dropout=0.5))
    trainee = trainee_of(model, torch.float64)
    for name, parameter in trainee.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    seen = []
    forward = type(trainee).forward

    def remember(self, work):
        outputs = forward(self, work)
        seen.append((torch.is_grad_enabled(), id(work.part), outputs.gen.detach().clone()))
        return outputs

    monkeypatch.setattr(type(trainee), "forward", remember)
    batch = batch_of(encoded, torch.float64, 80)
    add_gradients(trainee, batch, objective(processor), Alone())
    first = {part: gen for learning, part, gen in seen if not learning}
    second = {part: gen for learning, part, gen in seen if learning}
    assert len(first) == len(batch.parts) - 1 and len(second) == len(batch.parts)
    for part, gen in first.items():
        torch.testing.assert_close(second[part], gen, atol=1e-12, rtol=0)


def test_a_process_with_fewer_parts_passes_as_often(sft_config):
    model, processor, encoded = encoded_pairs(sft_config)
    trainee, wanted = trainee_of(model, torch.float64), objective(processor)
    batch = batch_of(encoded, torch.float64, 100)
    assert len(batch.parts) > 1
    numbers, whole = gradients(trainee, batch, wanted)

    class WithOthers(Alone):
        passes = 0

        def largest(self, number):
            return number + 3

        def backward(self, loss):
            self.passes += 1
            loss.backward()

    run = WithOthers()
    found, more = gradients(trainee, batch, wanted, run)
    assert run.passes == len(batch.parts) + 3
    torch.testing.assert_close(torch.stack(found), torch.stack(numbers), rtol=1e-6, atol=1e-7)
    assert_same(more, whole, 1e-9)


def test_passes_that_count_nothing_take_room(sft_config):
    encoded = encoded_pairs(sft_config)[2]
    batch = batch_of(encoded, tokens=100)
    parts = len(batch.parts)
    sizes = [sum(part.packed.lengths) for part in batch.parts]
    assert room_of(batch, parts, 100) == sum(max(size, 100) for size in sizes)
    assert room_of(batch, parts + 2, 100) == room_of(batch, parts, 100) + 2 * max(min(sizes), 100)
    whole = batch_of(encoded)
    assert room_of(whole, 1, 0) == whole.tokens


def test_one_long_sequence_has_a_part_of_its_own(sft_config):
    encoded = encoded_pairs(sft_config, MIXED)[2]
    batch = batch_of(encoded, tokens=1)
    assert all(len(part.packed.lengths) == 1 for part in batch.parts)
    rows = torch.cat([batch.query_rows, batch.target_rows])
    assert sorted(set(rows.tolist())) == list(range(len(batch.parts)))


def test_peak_memory_is_that_of_a_part(sft_config):
    """Activations of the largest part, not of the batch: numbers that autograd keeps at any moment."""
    model, processor, encoded = encoded_pairs(sft_config, tuple(range(24)))
    trainee, wanted = trainee_of(model), objective(processor)
    peak = {tokens: _kept(trainee, batch_of(encoded, tokens=tokens), wanted) for tokens in (0, 60)}
    assert peak[60] < peak[0] / 4


def _kept(trainee, batch, wanted):
    live = peak = 0

    class Kept:
        def __init__(self, tensor):
            nonlocal live, peak
            self.tensor = tensor
            live += tensor.nbytes
            peak = max(peak, live)

        def __del__(self):
            nonlocal live
            live -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        gradients(trainee, batch, wanted)
    return peak
