"""Tiny random transformers models and batches for the integration tests."""

import torch
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

VOCABULARY = 61
IMAGE, VISION_START, VISION_END, END, PAD, GEN = 50, 51, 52, 53, 54, 55
GRIDS = torch.tensor([[1, 4, 4], [1, 2, 6]])  # patches; four of them make one token
PATCH_VALUES = 3 * 2 * 4 * 4
TOLERANCE = 1e-5  # relative, for losses and gradients in float32


def qwen2_vl(seed=0, **text) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "eos_token_id": END, "bos_token_id": None,
            "pad_token_id": PAD, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                "rope_theta": 10000.0}, **text,
        },
        vision_config={
            "depth": 1, "embed_dim": 24, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=IMAGE, video_token_id=IMAGE - 1, vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END, tie_word_embeddings=text.get("tie_word_embeddings", True),
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config).eval()
    return _noisy(model)


def qwen2(seed=0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        eos_token_id=END, bos_token_id=None, pad_token_id=PAD,
    )  # fmt: skip
    return _noisy(Qwen2ForCausalLM(config).eval())


def text_batch(rows=3, length=9, seed=1) -> dict:
    """Padded on the left; no labels on the padding and on the first half of each row."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, 48, (rows, length), generator=generator)
    mask = torch.ones_like(input_ids)
    for row in range(1, rows):
        input_ids[row, :row] = PAD
        mask[row, :row] = 0
    labels = input_ids.masked_fill(mask == 0, -100)
    labels[:, : length // 2] = -100
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def image_batch(seed=2) -> dict:
    """Two rows with one image each."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _, height, width in GRIDS.tolist():
        words = torch.randint(0, 48, (5,), generator=generator).tolist()
        image = [VISION_START] + [IMAGE] * (height * width // 4) + [VISION_END]
        rows.append(words[:2] + image + words[2:])
    length = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    labels = input_ids.clone()
    labels[:, :-4] = -100
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != PAD).long(),
        "mm_token_type_ids": (input_ids == IMAGE).int(),
        "pixel_values": torch.randn(int(GRIDS.prod(1).sum()), PATCH_VALUES, generator=generator),
        "image_grid_thw": GRIDS,
        "labels": labels,
    }


def untied():
    return qwen2_vl(tie_word_embeddings=False)


def gradients(model, *losses):
    model.zero_grad()
    for loss in losses:
        loss.backward()
    used = ((name, value) for name, value in model.named_parameters() if value.grad is not None)
    return {name: value.grad.clone() for name, value in used}  # text does not use the vision tower


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        error = (got[name] - value).abs().max() / value.abs().max().clamp_min(1e-3)
        assert error < TOLERANCE, f"{name}: {error}"


def _noisy(model):
    """Weights far from their initial values: nothing is near zero, no norm is one."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() == 1:
                parameter.copy_(noise * 0.3 + 0.7)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    return model
