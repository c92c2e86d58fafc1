"""One process of test_apply's distributed test: `python apply_cases.py HOW RANK WORLD STORE`."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from tiny_qwen import qwen2, text_batch  # noqa: E402

from umer1_kernels import apply_umer1_kernels  # noqa: E402


def wrap(model, how, world):
    if how == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    for part in [*model.model.layers, *([model.lm_head] if "head" in how else [])]:
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def main(how, rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    batch = text_batch(seed=rank + 1)  # every process has its own rows
    plain = qwen2()
    expected = plain(**batch).loss
    expected.backward()
    for parameter in plain.parameters():
        dist.all_reduce(parameter.grad)

    model = qwen2()
    apply_umer1_kernels(model)
    wrapped = wrap(model, how, world)  # its hooks must live until the backward
    output = wrapped(**batch)
    assert output.logits is None and torch.allclose(output.loss, expected, atol=1e-5)
    output.loss.backward()
    parameters = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        grad, truth = parameter.grad, parameters[name].grad / world
        grad = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
        assert (grad - truth).abs().max() < 1e-5 * truth.abs().max() + 1e-8, name
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    sys.stdout.flush()
    # gloo's threads sometimes abort an interpreter that shuts down in order
    os._exit(0)
