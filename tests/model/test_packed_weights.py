"""Packed weights: the same numbers, reversible, loud where they cannot be used."""

import logging

import pytest
import torch
import torch.nn.functional as F

from umer1.model import pack, pack_weights
from umer1.model import packed_layouts as layouts
from umer1.model import packed_weights as module
from umer1.model.checkpoint import save_model
from umer1.model.packed_layouts import OneDNN, Panels, fast_bfloat16, layout_for
from umer1.model.packed_weights import PackedLinear, inference_dtype

DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(not fast_bfloat16(), reason="this CPU has no bfloat16 products"),
    ),
]
# against the plain product, relative to its norm
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN"
)
pytestmark = needs_onednn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_hidden_states_and_logits_stay(make_model, make_sequence, dtype, tied):
    model = make_model(tie_word_embeddings=tied).to(dtype)
    packed = pack([make_sequence(9, (1, 4, 6), 5), make_sequence(3, (2, 4, 4), 4, seed=1)])
    hidden = model(packed)
    logits = model.logits(hidden)
    handle = pack_weights(model)
    assert handle.obstacle is None and isinstance(model.decoder.layers[0].qkv, PackedLinear)
    for ours, plain in ((model(packed), hidden), (model.logits(hidden), logits)):
        assert (ours - plain).norm() <= TOLERANCE[dtype] * plain.norm()
    assert (model.packed_head is not None) == tied


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1536, 2560), (512, 2944), (760, 1128), (1024, 128)])
@torch.no_grad()
def test_a_row_has_the_same_bits_in_every_batch(dtype, shape):
    """One row too, for which oneDNN has another kernel."""
    linear = torch.nn.Linear(shape[1], shape[0]).to(dtype)
    rows = torch.randn(300, shape[1]).to(dtype)
    plain = F.linear(rows.double(), linear.weight.double(), linear.bias.double())
    layer = PackedLinear(linear, keep=True)
    together = layer(rows)
    assert (together.double() - plain).norm() <= TOLERANCE[dtype] * plain.norm()
    for count in (1, 2, 3, 7, 8, 16, 17, 31, 64, 100, 299):
        for start in (0, 300 - count):
            alone = layer(rows[start : start + count])
            assert torch.equal(alone, together[start : start + count]), (count, start)
    assert layer(rows[:0]).shape == (0, shape[0])


@pytest.mark.parametrize("keep", [True, False])
@torch.no_grad()
def test_undo_gives_back_the_same_modules_and_bits(make_model, keep):
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    memory = {name: value.data_ptr() for name, value in parameters.items()}
    handle = pack_weights(model, keep=keep)
    qkv = parameters["decoder.layers.0.qkv.weight"]
    assert qkv.numel() == (before["decoder.layers.0.qkv.weight"].numel() if keep else 0)
    packed = model.state_dict()
    assert packed.keys() == before.keys()
    assert all(torch.equal(packed[name], before[name]) for name in before)
    handle.undo()
    handle.undo()
    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys() and model.packed_head is None
    for name, value in after.items():
        assert value is parameters[name] and torch.equal(value, before[name])
        assert not keep or value.data_ptr() == memory[name]


@torch.no_grad()
def test_plain_weights_can_be_written_in_between(make_model, make_sequence, tmp_path):
    model, packed = make_model(), pack([make_sequence(7)])
    handle = pack_weights(model)
    with pytest.raises(RuntimeError, match="undo\\(\\) the packing to read or write"):
        save_model(model, tmp_path)
    with handle.undone():
        save_model(model, tmp_path)
        for layer in model.decoder.layers:
            layer.down.weight.zero_()
    assert isinstance(model.decoder.layers[0].down, PackedLinear)
    wanted = make_model()
    for layer in wanted.decoder.layers:
        layer.down.weight.zero_()
    torch.testing.assert_close(model(packed), wanted(packed), atol=1e-5, rtol=1e-5)


def test_a_context_leaves_a_model_that_trains(make_model, make_sequence):
    model = make_model()
    with pack_weights(model, keep=True) as handle, torch.no_grad():
        assert "float32" in handle.describe() and "plain weights kept" in handle.describe()
        model(pack([make_sequence(4)]))
    assert "plain again" in handle.describe()
    model(pack([make_sequence(4)])).sum().backward()
    assert model.decoder.layers[0].qkv.weight.grad.abs().sum() > 0


def test_what_packed_weights_cannot_do_is_an_error(make_model, make_sequence):
    model = make_model()
    pack_weights(model)
    with pytest.raises(RuntimeError, match="no gradient"):
        model(pack([make_sequence(4)]))
    with pytest.raises(RuntimeError, match="cannot be moved or converted"):
        model.double()


def test_a_model_that_cannot_be_packed_is_left_and_said_so(make_model, make_sequence, caplog):
    model = make_model().double()
    with caplog.at_level(logging.WARNING, "umer1"):
        handle = pack_weights(model)
    assert "not packed, F.linear runs" in caplog.text and "float64" in handle.describe()
    assert type(model.decoder.layers[0].qkv) is torch.nn.Linear
    model(pack([make_sequence(4)]))


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda *_: (_ for _ in ()).throw(AttributeError("no such operator")), "no such operator"),
        (lambda self, rows, bias, dtype: rows, "multiplies packed weights wrongly"),
    ],
)
def test_private_operators_are_tried_first(make_model, monkeypatch, broken, message):
    monkeypatch.setattr(OneDNN, "product", broken)
    model = make_model()
    handle = pack_weights(model)
    assert message in handle.describe() and handle.obstacle
    assert type(model.decoder.layers[0].qkv) is torch.nn.Linear


@pytest.mark.parametrize("tiles", [True, False])
@torch.no_grad()
def test_both_layouts_of_bfloat16(monkeypatch, tiles):
    """On a CPU with AMX oneDNN, else panels where the CPU has AVX512-BF16; their logits are the same
    but for rounding, and panels do not round float32 ones."""
    if not fast_bfloat16():
        pytest.skip("this CPU has no bfloat16 products")
    monkeypatch.setattr(layouts, "has_amx", lambda: tiles)
    linear = torch.nn.Linear(96, 72).bfloat16()
    rows = torch.randn(5, 96).bfloat16()
    exact = F.linear(rows.double(), linear.weight.double(), linear.bias.double())
    layer = PackedLinear(linear, keep=True)
    expected = OneDNN if tiles or not layouts.BF16_COMPILED else Panels
    assert layout_for(torch.bfloat16) is expected and layer.layout == expected.name
    error = (layer.float32(rows) - exact).abs().max()
    assert error <= (2e-2 if expected is OneDNN else 1e-5)
    assert torch.equal(layer.float32(rows).bfloat16(), layer(rows))
    assert torch.equal(layer.unpacked().weight, linear.weight)


def test_large_models_compute_in_bfloat16_where_the_cpu_can(make_config, monkeypatch):
    def chosen(device="cpu", **fields):
        return inference_dtype(make_config(**fields), torch.device(device))

    monkeypatch.setattr(module, "_LARGE", 10_000)
    monkeypatch.setattr(module, "fast_bfloat16", lambda: True)
    assert chosen(dtype="bfloat16") == chosen(dtype="float16") == torch.bfloat16
    assert chosen(dtype="float32") == torch.float32  # the checkpoint is more precise
    assert chosen("cuda", dtype="float32") == torch.bfloat16
    monkeypatch.setattr(module, "fast_bfloat16", lambda: False)
    assert chosen(dtype="bfloat16") == torch.float32
    monkeypatch.undo()
    assert chosen(dtype="bfloat16") == torch.float32  # small
