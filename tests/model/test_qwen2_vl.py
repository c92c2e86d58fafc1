"""The model as a whole: memory options, initialisation, imports."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys

import pytest
import torch

from umer1.model import pack


def gradients(model, packed):
    model.zero_grad()
    model(packed).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_changes_nothing(make_model, make_sequence):
    model = make_model().train()
    packed = pack([make_sequence(3, (1, 4, 4), 5), make_sequence(9, seed=1)])
    kept = gradients(model, packed)
    model.gradient_checkpointing = True
    recomputed = gradients(model, packed)
    assert kept.keys() == recomputed.keys() and model.gradient_checkpointing
    for name, grad in kept.items():
        torch.testing.assert_close(recomputed[name], grad, msg=name)


def test_uninitialised_memory_never_reaches_the_result(make_model, make_sequence, poisoned_memory):
    model = make_model()
    packed = pack([make_sequence(3, (1, 4, 4), 5), make_sequence(9, seed=1), make_sequence(4)])
    hidden = model(packed)
    hidden.square().mean().backward()
    assert hidden.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_media_of_a_pack_do_not_mix(make_model, make_sequence):
    """The vision tower groups frames by size; each still sees only itself."""
    model = make_model()
    sequences = [
        make_sequence(2, (1, 4, 4), 3, (2, 2, 2), 1),
        make_sequence(1, (1, 2, 8), 2, seed=1),
        make_sequence((1, 4, 4), (1, 2, 2), 2, seed=2),
    ]
    packed = pack(sequences)
    together = model.vision(packed.pixel_values, packed.grid_thw)
    alone = [model.vision(part.pixel_values, part.grid_thw) for part in sequences]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    frames = torch.tensor([[1, 2, 2], [1, 2, 2]])
    video = sequences[0].pixel_values[16:], torch.tensor([[2, 2, 2]])
    torch.testing.assert_close(
        model.vision(*video), model.vision(video[0], frames), atol=1e-5, rtol=0
    )


def test_videos_of_many_sizes_leave_little_behind(make_model):
    def kept():
        return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor)

    tower = make_model().vision
    before = kept()
    with torch.no_grad():
        for number in range(12):
            grid = [400 + number, 2, 2 + 2 * number]
            patches = torch.zeros(grid[0] * grid[1] * grid[2], tower.config.patch_dim)
            tower(patches, torch.tensor([grid]))
            del patches
    assert kept() - before < 1 << 17


def test_patches_that_do_not_fit_the_grid(make_model, make_sequence):
    model = make_model()
    packed = pack([make_sequence(2, (1, 4, 4), 3)])
    with pytest.raises(ValueError, match=r"pixel_values has shape \(15, 96\), want \(16, 96\)"):
        model(dataclasses.replace(packed, pixel_values=packed.pixel_values[:-1]))


def test_reset_parameters_is_seeded_and_complete(make_model):
    first, second = make_model(seed=1), make_model(seed=2)
    for model in (first, second):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        model.reset_parameters(torch.Generator().manual_seed(5))
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert one.isfinite().all() and torch.equal(one, other), name
        if name.endswith("bias"):
            assert (one == 0).all(), name
        elif one.dim() == 1:
            assert (one == 1).all(), name
    assert abs(first.decoder.embed.weight.std().item() / 0.02 - 1) < 0.05


def test_logits_are_float32(make_model):
    model = make_model().bfloat16()
    assert model.logits(torch.ones(2, 192, dtype=torch.bfloat16)).dtype == torch.float32


def test_importing_the_package_is_light():
    """No torch before the first public name is used; an unknown name is an AttributeError."""
    code = (
        "import sys, umer1\n"
        "assert umer1.__version__ and 'torch' not in sys.modules\n"
        "try: umer1.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error)\n"
        "else: raise SystemExit('no error')\n"
        "import umer1.model\n"
        "heavy = {'transformers', 'av', 'qwen_vl_utils', 'deepspeed', 'faiss', 'fastapi', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
