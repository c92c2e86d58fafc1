"""The arithmetic a prompt is said to need is what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.engine.flops import prefill_flop, vision_flop
from bench.engine.workload import Workload
from bench.peaks import peak, utilization
from umer1.model import pack


@pytest.fixture
def workload():
    return Workload("tiny", ("image-64",), 1, dtype=torch.float32)


def attention_flop(query, key, *_, **__):
    batch, heads, length, width = query
    return 4 * batch * heads * length * key[2] * width


# torch 2.11 has no count of the attention that it takes on a CPU
ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop}


def counted(call):
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def test_vision(workload):
    model, sequence = workload.model, workload.requests[0].sequence
    got = counted(lambda: model.vision(sequence.pixel_values, sequence.grid_thw))
    assert vision_flop(model, sequence) == pytest.approx(got, rel=1e-3)


def test_prefill(workload):
    model, sequence = workload.model, workload.requests[0].sequence
    packed = pack([sequence])

    def forward():
        model.logits(model(packed)[-1:])

    length, config = len(sequence), model.config
    # torch counts whole squares of attention, half of which a causal one needs
    square = 4 * length**2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    needed = 2 * length * (length + 1) * config.num_attention_heads * config.head_dim * config.num_hidden_layers  # fmt: skip
    wanted = vision_flop(model, sequence) + prefill_flop(model, sequence) - needed + square
    assert counted(forward) == pytest.approx(wanted, rel=1e-3)


def test_text_alone_needs_no_tower():
    workload = Workload("tiny", ("text-9",), 1)
    assert vision_flop(workload.model, workload.requests[0].sequence) == 0


def test_utilization_is_of_the_named_gpu():
    assert utilization(989.4e12, 2.0, "NVIDIA H200") == pytest.approx(50)
    assert peak("NVIDIA H100 PCIe") == 756e12 and peak("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak("AMD EPYC") is None
