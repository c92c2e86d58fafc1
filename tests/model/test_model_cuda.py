"""The model on a CUDA device against itself on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from umer1.model import PackedAttention, pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PARTS = [(3, (1, 4, 6), 9), (14,), (4, (1, 2, 2), 2, (3, 4, 4), 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forward_and_gradients(dtype, make_model, make_sequence):
    model = make_model(vision_head_dim=16)
    packed = pack([make_sequence(*parts, seed=n) for n, parts in enumerate(PARTS)])
    device_model = copy.deepcopy(model).to("cuda", dtype)
    on_device = packed.to("cuda", dtype)
    attend = PackedAttention(on_device.lengths, on_device.cu_seqlens, dtype, head_size=16)
    assert attend.backend == ("sdpa" if dtype == torch.float32 else "varlen_attn")
    weights = torch.randn(len(packed.input_ids), 192)
    expected, hidden = model(packed), device_model(on_device, attend)
    (expected * weights).sum().backward()
    (hidden * weights.to("cuda", dtype)).sum().backward()
    least = 0.9999 if dtype == torch.float32 else 0.99
    assert torch.cosine_similarity(expected, hidden.float().cpu(), dim=-1).min() > least
    for (name, one), other in zip(model.named_parameters(), device_model.parameters(), strict=True):
        similarity = torch.cosine_similarity(
            one.grad.flatten(), other.grad.float().cpu().flatten(), dim=0
        )
        assert similarity > least, name
