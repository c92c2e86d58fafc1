"""Weights in shards: how FSDP2 cuts a model, and how a whole weight is had again from FSDP2 or ZeRO-3."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.wrapped import Trainee


@torch.no_grad()
def whole(parameter: nn.Parameter) -> Tensor:
    """The complete tensor of a weight that may be a shard; every process of the group must ask for it."""
    if isinstance(parameter, DTensor):
        return parameter.full_tensor()
    if not hasattr(parameter, "ds_id"):
        return parameter
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def skeleton(model: Qwen2VL) -> Qwen2VL:
    """The model's structure with weights on no device, made before sharding changes its modules."""
    bare = {
        id(each): nn.Parameter(torch.empty_like(each, device="meta"), requires_grad=False)
        for each in model.parameters()
    }
    return copy.deepcopy(model, memo=bare)


def shard(trainee: Trainee, device: torch.device, processes: int, bf16: bool) -> None:
    """FSDP2: each decoder layer and vision block by itself; embedding, head, norms and the rest in the root."""
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # rotations stay in float32
    )
    shared = dict(mesh=init_device_mesh(device.type, (processes,)), mp_policy=precision)
    for layer in (*trainee.model.vision.blocks, *trainee.model.decoder.layers):
        fully_shard(layer, **shared)
    fully_shard(trainee, reshard_after_forward=False, **shared)
