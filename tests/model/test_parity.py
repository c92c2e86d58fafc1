"""Our model against transformers' Qwen2VLForConditionalGeneration, random weights, float32."""

from __future__ import annotations

import pytest
import torch

from umer1.model import pack

CASES = {
    "text": (23,),
    "one token": (1,),
    "image": (3, (1, 4, 6), 9),
    "image first": ((1, 2, 2), 5),
    "several images": (2, (1, 4, 4), 1, (1, 2, 14), 3, (1, 6, 2), 4),
    "video": (4, (3, 4, 6), 7),
    "long video of small frames": (4, (6, 2, 4), 7),
    "image and video": (2, (1, 6, 10), 3, (2, 4, 4), 5),
    "odd grids": (2, (1, 10, 6), 3, (1, 2, 18), 2, (1, 14, 2), 1),
}
SHAPES = {
    "12 heads on 2, tied": {},
    "28 heads on 4, untied": {
        "heads": 28, "kv_heads": 4, "head_dim": 8, "mrope_section": (1, 1, 2),
        "tie_word_embeddings": False,
    },
    "4 heads on 4, one layer": {"heads": 4, "kv_heads": 4, "layers": 1},
}  # fmt: skip
TOLERANCE = 1e-4


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def pair(request, make_model, as_transformers):
    model = make_model(**request.param)
    return model, as_transformers(model)


@torch.no_grad()
def test_hidden_states_and_logits_match(pair, make_sequence, reference_inputs):
    """Every case alone, and all of them in one packed batch."""
    model, reference = pair
    sequences = [make_sequence(*parts, seed=n) for n, parts in enumerate(CASES.values())]
    together = model(packed := pack(sequences))
    for name, sequence, hidden in zip(
        CASES, sequences, together.split(packed.lengths), strict=True
    ):
        expected = reference(**reference_inputs(sequence), output_hidden_states=True)
        last = expected.hidden_states[-1][0]
        assert last.abs().max() > 0.5, name  # a comparison of nothing proves nothing
        for ours in (hidden, model(pack([sequence]))):
            torch.testing.assert_close(ours, last, atol=TOLERANCE, rtol=0, msg=name)
            torch.testing.assert_close(
                model.logits(ours), expected.logits[0], atol=TOLERANCE, rtol=0, msg=name
            )


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES.keys())
def test_positions_match(parts, make_model, as_transformers, make_sequence, reference_inputs):
    sequence = make_sequence(*parts)
    inputs = reference_inputs(sequence)
    expected, _ = as_transformers(make_model(layers=1)).model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs.get("image_grid_thw"),
        inputs.get("video_grid_thw"),
    )
    assert torch.equal(pack([sequence]).position_ids, expected[:, 0])


def test_gradients_match(make_model, as_transformers, make_sequence, reference_inputs):
    """A scalar of the logits of a mixed batch, its gradient with respect to every weight."""
    model = make_model(layers=1)
    reference = as_transformers(model)
    sequences = [make_sequence(*CASES[name]) for name in ("text", "several images", "video")]
    packed = pack(sequences)
    weights = torch.randn(len(packed.input_ids), model.config.vocab_size)
    (model.logits(model(packed)) * weights).sum().backward()
    for sequence, part in zip(sequences, weights.split(packed.lengths), strict=True):
        (reference(**reference_inputs(sequence)).logits[0] * part).sum().backward()
    from umer1.model.key_names import canonical_key, checkpoint_tensors

    expected = {canonical_key(name): p.grad for name, p in reference.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    ours = {entry.key: entry.read() for entry in checkpoint_tensors(model)}
    assert ours.keys() == expected.keys() - {"lm_head.weight"}
    for key, grad in ours.items():
        scale = expected[key].abs().max()
        torch.testing.assert_close(grad / scale, expected[key] / scale, atol=1e-4, rtol=0, msg=key)


@torch.no_grad()
def test_float64_agrees_with_float32(make_model, make_sequence):
    model = make_model()
    packed = pack([make_sequence(*parts) for parts in CASES.values()])
    single = model(packed)
    double = model.double()(packed.to("cpu", torch.float64))
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), atol=2e-5, rtol=0)


@torch.no_grad()
def test_bfloat16_stays_close(make_model, make_sequence):
    model = make_model()
    packed = pack([make_sequence(*parts) for parts in CASES.values()])
    single = model(packed)
    half = model.bfloat16()(packed)
    assert half.dtype == torch.bfloat16
    similarity = torch.cosine_similarity(single, half.float(), dim=-1)
    assert similarity.min() > 0.995
