"""The memory model against what a real step keeps: parameters exactly, activations and peak within stated bounds."""

import os
import subprocess
import sys

import pytest
import torch

from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack
from umer1.training import plan_memory as memory
from umer1.training.settings import LoRAConfig, SFTConfig

TOLERANCE = 0.03  # of the activations of a forward pass
PEAK_TOLERANCE = 0.35  # of a process's memory: allocator and matrix library add to it

TINY = ModelConfig(
    vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, mrope_section=(2, 3, 3), tie_word_embeddings=False, image_token_id=500,
    vision=VisionConfig(depth=2, embed_dim=32, hidden_size=64, num_heads=2),
)  # fmt: skip


def packed(visual: int = 64, sequences: int = 4, text: int = 64):
    """Sequences of `text` tokens and one picture of `visual` merged cells."""
    chance = torch.Generator().manual_seed(0)
    side = int((4 * visual) ** 0.5)
    made = []
    for _ in range(sequences):
        ids = torch.randint(0, 400, (text + visual,), generator=chance)
        mask = torch.zeros(len(ids), dtype=torch.bool)
        mask[8 : 8 + visual] = True
        pixels = torch.randn(4 * visual, TINY.vision.patch_dim, generator=chance)
        made.append(Sequence(ids, mask, pixels, torch.tensor([[1, side, side]])))
    return pack(made, 2)


@pytest.mark.parametrize("name, billions, vision, tied", [
    ("Qwen/Qwen2-VL-2B-Instruct", 2.209, 0.665, True), ("zhibinlan/UME-R1-7B", 8.291, 0.676, False),
])  # fmt: skip
def test_known_models_have_their_published_sizes(name, billions, vision, tied):
    config = memory.read_shapes(name)
    counts = memory.count_parameters(config)
    assert counts.all / 1e9 == pytest.approx(billions, abs=1e-3)
    assert (counts.tower + counts.merger) / 1e9 == pytest.approx(vision, abs=1e-3)
    assert config.tie_word_embeddings == tied
    frozen = memory.count_parameters(config, SFTConfig())
    assert frozen.all - frozen.trainable == counts.tower and counts.trainable == counts.all


def test_parameters_are_those_of_a_real_model():
    counts, model = memory.count_parameters(TINY), Qwen2VL(TINY)
    assert counts.all == sum(parameter.numel() for parameter in model.parameters())
    assert counts.embeddings == 2 * 512 * 64
    assert counts.merger == sum(p.numel() for p in model.vision.merger.parameters())


def test_adapters_are_counted():
    pytest.importorskip("peft")
    counts = memory.count_parameters(TINY, SFTConfig(lora=LoRAConfig(rank=4)))
    # qkv, output, gate_up, down: rank x (in + out)
    a_layer = 4 * ((64 + 128) + (64 + 64) + (64 + 384) + (192 + 64))
    assert counts.adapters == 3 * a_layer + 2 * 128  # the rows of both embedding tokens
    assert counts.trainable == counts.adapters + counts.merger


def test_a_directory_needs_its_config_alone_and_unknown_names_are_refused(tmp_path):
    import json

    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    assert memory.read_shapes(str(tmp_path)).hidden_size == 64
    with pytest.raises(ValueError, match="no config.json in 'org/other'.*zhibinlan/ume-r1-2b"):
        memory.read_shapes("org/other")


@pytest.mark.parametrize("frozen", [False, True])
def test_activations_are_what_autograd_keeps(frozen):
    model = Qwen2VL(TINY).reset_parameters()
    model.vision.requires_grad_(not frozen)
    model.vision.merger.requires_grad_(True)
    batch = packed()
    others = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    others.add(batch.pixel_values.untyped_storage().data_ptr())
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in others:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(batch)
    at_work, decoder, tower = memory.activations(
        TINY,
        len(batch.input_ids),
        256,
        checkpointing=False,
        freeze_vision=frozen,
        item=4,
        residual=4,
    )
    measured = sum(kept.values())
    assert hidden.shape == (512, 64)
    assert measured == pytest.approx(decoder + tower, rel=TOLERANCE)


@pytest.mark.parametrize("sharding, expected", [
    # bf16: P parameters, all trainable, 4 GPUs
    ("ddp", dict(weights=4, gradients=4, optimizer=8)), ("zero1", dict(weights=2, gradients=2, optimizer=3)),
    ("zero2", dict(weights=2, gradients=0.5, optimizer=3)), ("zero3", dict(weights=0.5, gradients=0.5, optimizer=3)),
    ("fsdp", dict(weights=1, gradients=1, optimizer=2)),
])  # fmt: skip
def test_state_by_sharding(sharding, expected):
    counts = memory.count_parameters(TINY)
    found = memory.state_bytes(counts, sharding, 4, "bf16")
    for part, per_parameter in expected.items():
        assert found[part] == pytest.approx(per_parameter * counts.all, rel=1e-6), part
    with pytest.raises(ValueError, match="sharding: got 'zero9'"):
        memory.state_bytes(counts, "zero9", 4, "bf16")


def test_cache_is_the_engines():
    from umer1.engine.memory import page_bytes
    from umer1.engine.pages import PAGE_LENGTH

    assert memory.cache_bytes(TINY, PAGE_LENGTH, 4) == page_bytes(TINY, torch.float32)


PEAK = """
import sys, torch
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack
import umer1_kernels as kernels
def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024
config = ModelConfig(vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, mrope_section=(8, 12, 12), tie_word_embeddings=True,
    image_token_id=4000, vision=VisionConfig(depth=1, embed_dim=32, hidden_size=256, num_heads=2))
def step(model, optimizer, tokens):
    ids = torch.randint(0, 4000, (tokens,))
    none = torch.zeros(0, 3, dtype=torch.int64)
    mask = torch.zeros(512, dtype=torch.bool)
    batch = pack([Sequence(part, mask[:len(part)], None, none) for part in ids.split(512)], 2)
    hidden = model(batch)
    kernels.linear_cross_entropy(hidden, model.head_weight, ids).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
def trainer():
    model = Qwen2VL(config).reset_parameters()
    model.gradient_checkpointing = sys.argv[1] == "True"
    return model, torch.optim.AdamW(model.parameters(), fused=True)
step(*trainer(), 512)                       # libraries and threads have what they need
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
model, optimizer = trainer()
step(model, optimizer, 2048)
step(model, optimizer, 2048)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_real_step(checkpointing):
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(checkpointing)],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    measured = int(run.stdout)
    config = ModelConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, mrope_section=(8, 12, 12), tie_word_embeddings=True,
        vision=VisionConfig(depth=1, embed_dim=32, hidden_size=256, num_heads=2),
    )  # fmt: skip
    counts = memory.count_parameters(config)
    state = memory.state_bytes(counts, "ddp", 1, "no")
    activations = memory.activations(
        config, 2048, 0, checkpointing=checkpointing, freeze_vision=False, item=4, residual=4
    )
    expected = sum(state.values()) + sum(activations)
    assert measured == pytest.approx(expected, rel=PEAK_TOLERANCE), (measured, expected)
