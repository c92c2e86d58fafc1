"""Small random models and sequences, and the same model in transformers."""

from __future__ import annotations

import pytest
import torch

from umer1.model import ModelConfig, Qwen2VL, Sequence, VisionConfig, save_model

IMAGE_ID, VIDEO_ID = 90, 91
VOCABULARY = 97  # text ids stay below 88


@pytest.fixture
def make_config():
    """Head shapes like the released ones by default: 12 query heads on 2, head size 16."""

    def build(
        heads=12, kv_heads=2, head_dim=16, layers=2, vision_heads=2, vision_head_dim=12, **fields
    ):
        width = vision_head_dim * vision_heads
        vision = {"depth": 2, "embed_dim": width, "num_heads": vision_heads}
        space = head_dim // 2 * 3 // 8
        values = {
            "vocab_size": VOCABULARY,
            "hidden_size": heads * head_dim,
            "intermediate_size": 104,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "mrope_section": (head_dim // 2 - 2 * space, space, space),
            "tie_word_embeddings": True,
            "image_token_id": IMAGE_ID,
            "video_token_id": VIDEO_ID,
            "vision_start_token_id": 88,
            "vision_end_token_id": 89,
            "bos_token_id": 92,
            "eos_token_id": 93,
        } | fields
        vision = VisionConfig(
            hidden_size=values["hidden_size"], mlp_ratio=2, patch_size=4, **vision
        )
        return ModelConfig(vision=vision, **values)

    return build


@pytest.fixture
def make_model(make_config):
    def build(seed=0, **fields) -> Qwen2VL:
        model = Qwen2VL(make_config(**fields))
        generator = torch.Generator().manual_seed(seed)
        # Biases and norms too: a permuted or forgotten one must show.
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() == 1:
                    parameter.copy_(noise * 0.3 + 0.7)
                else:
                    parameter.copy_(noise * parameter.shape[1] ** -0.5)
        return model.eval()

    return build


@pytest.fixture
def make_sequence():
    """A sequence of text runs and media: 5 is five tokens of text, (1, 4, 6) a grid."""

    def build(*parts, seed=0, patch_dim=96) -> Sequence:
        generator = torch.Generator().manual_seed(seed)
        ids, mask, grids = [], [], []
        for part in parts:
            if isinstance(part, int):
                ids += torch.randint(0, 88, (part,), generator=generator).tolist()
                mask += [False] * part
            else:
                cells = part[0] * part[1] * part[2] // 4
                ids += [IMAGE_ID if part[0] == 1 else VIDEO_ID] * cells
                mask += [True] * cells
                grids.append(part)
        patches = sum(t * h * w for t, h, w in grids)
        return Sequence(
            input_ids=torch.tensor(ids),
            media_mask=torch.tensor(mask),
            pixel_values=torch.randn(patches, patch_dim, generator=generator) if grids else None,
            grid_thw=torch.tensor(grids, dtype=torch.int64).view(-1, 3),
        )

    return build


@pytest.fixture
def as_transformers(tmp_path):
    """The same weights as a transformers model, through a saved checkpoint; eager attention."""
    from transformers import Qwen2VLForConditionalGeneration

    def convert(model: Qwen2VL):
        directory = tmp_path / "as_transformers"
        save_model(model, directory)
        reference, report = Qwen2VLForConditionalGeneration.from_pretrained(
            directory, attn_implementation="eager", dtype=model.dtype, output_loading_info=True
        )
        assert not any(report.values()), report
        return reference.eval()

    return convert


@pytest.fixture
def reference_inputs():
    """The keyword arguments of transformers' forward for one sequence."""

    def convert(sequence: Sequence) -> dict:
        video = sequence.grid_thw[:, 0] > 1
        patches = sequence.grid_thw.prod(-1)
        types = torch.zeros_like(sequence.input_ids)
        types[sequence.media_mask & (sequence.input_ids == IMAGE_ID)] = 1
        types[sequence.media_mask & (sequence.input_ids == VIDEO_ID)] = 2
        inputs = {"input_ids": sequence.input_ids[None], "mm_token_type_ids": types[None].int()}
        if sequence.pixel_values is not None:
            pieces = sequence.pixel_values.split(patches.tolist())
            for name, grids, chosen in (
                ("pixel_values", "image_grid_thw", ~video),
                ("pixel_values_videos", "video_grid_thw", video),
            ):
                if chosen.any():
                    inputs[name] = torch.cat([pieces[i] for i in chosen.nonzero()[:, 0].tolist()])
                    inputs[grids] = sequence.grid_thw[chosen]
        return inputs

    return convert
