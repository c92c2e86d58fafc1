"""Two gloo processes take the gradient that one process takes, in parts and with every option."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.multiprocessing

from tests.training.sft_cases import (
    assert_same,
    batch_of,
    encoded_pairs,
    gradients,
    objective,
    trainee_of,
    with_negatives,
)
from umer1.training.grad_cache import add_gradients

EVERYTHING = dict(align_weight=0.3, mask_duplicates=True, matryoshka={8: 0.5})
# name -> (hard negatives?, objective, tokens of a part; the second process has fewer parts)
CASES = {
    "released": (False, {}, 0),
    "parts": (False, dict(global_token_mean=True), 60),
    "everything": (True, dict(global_token_mean=True, **EVERYTHING), 60),
    "text beside pictures": (False, dict(global_token_mean=True), 0),
}


class _Processes:
    """What add_gradients asks of a run under DDP."""

    def __init__(self, module):
        self.module = module

    def part(self, *, last):
        return nullcontext() if last else self.module.no_sync()

    def backward(self, loss):
        loss.backward()

    def largest(self, number):
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)


def _chosen(name):
    return (0, 9, 16, 17) if name == "text beside pictures" else (0, 1, 9, 10)


def _world(name, records, config):
    hard = CASES[name][0]
    make = (lambda: with_negatives(records, config, _chosen(name))) if hard else (
        lambda: encoded_pairs(config, _chosen(name)))  # fmt: skip
    model, processor, encoded = make()
    trainee = trainee_of(model, torch.float64, scale=20.0 if hard else None)
    return trainee, processor, encoded


def _process(rank, records, config, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, (_, options, tokens) in CASES.items():
        trainee, processor, encoded = _world(name, records, config)
        trainee.model.always_see = True
        module = torch.nn.parallel.DistributedDataParallel(trainee)
        wanted = objective(processor, group=dist.group.WORLD, **options)
        tokens = tokens and tokens * (1 + rank)
        batch = batch_of(encoded[2 * rank : 2 * rank + 2], torch.float64, tokens)
        run = _Processes(module)
        # two steps of accumulation: gradients travel once
        add_gradients(module, batch, wanted, run, factor=0.25, last=False)
        numbers, found = gradients(module, batch, wanted, run, factor=0.75)
        numbers = torch.stack(numbers)
        dist.all_reduce(numbers)
        if rank == 0:
            torch.save((numbers / 2, found), f"{results}/{name}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(sft_config, records, tmp_path):
    torch.multiprocessing.spawn(
        _process, (records, sft_config, tmp_path / "store", tmp_path), nprocs=2
    )
    for name, (_, options, _) in CASES.items():
        trainee, processor, encoded = _world(name, records, sft_config)
        numbers, found = torch.load(tmp_path / f"{name}.pt")
        wanted = objective(processor, **options)
        if name == "released":
            # CE of each process's own tokens, then the mean: the released weighting
            halves = [batch_of(encoded[half : half + 2], torch.float64) for half in (0, 2)]
            ce = [gradients(trainee, half, wanted)[0] for half in halves]
            assert_close = torch.testing.assert_close
            assert_close(numbers[4], (ce[0].ce_query + ce[1].ce_query).double() / 2, rtol=1e-6, atol=0)
            wanted.cross_entropy_weight = 0.0
            for half in halves:
                assert half.supervised.min() > 0
            whole = _released_gradient(trainee, encoded, halves, wanted)
        else:
            one, whole = gradients(trainee, batch_of(encoded, torch.float64), wanted)
            kinds = [0, 1, 2, 3, 6, 7, 8]  # CE is logged as a mean over each process's tokens
            torch.testing.assert_close(
                numbers[kinds].double(), torch.stack(one)[kinds].double(), rtol=1e-5, atol=1e-6
            )
        assert_same(found, whole, 1e-9)


def _released_gradient(trainee, encoded, halves, contrastive):
    """Of the contrastive loss of all pairs, plus the mean of the halves' next-token losses."""
    total = gradients(trainee, batch_of(encoded, torch.float64), contrastive)[1]
    for half in halves:
        without = gradients(trainee, half, contrastive)[1]
        contrastive.cross_entropy_weight = 1.0
        with_tokens = gradients(trainee, half, contrastive)[1]
        contrastive.cross_entropy_weight = 0.0
        for name in total:
            total[name] = total[name] + (with_tokens[name] - without[name]) / 2
    return total
