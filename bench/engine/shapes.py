"""The models and prompts of the engine's benchmarks: real shapes, random weights.

The 2B shape is Qwen2-VL-2B's. The 0.1B one is that shape divided: a third of the width, 12 of 28 layers, a vocabulary
cut so that the head keeps its part of the decoder (15 %), a tower in the same proportion. The tiny one is for guards and
tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1.model import ModelConfig, Qwen2VL, Sequence, VisionConfig

MERGE, PATCH_NUMBERS = 2, 3 * 2 * 14 * 14
# ids above the text of random prompts: the same in every vocabulary here
SPECIAL = {
    "image": -1,
    "video": -2,
    "vision_start": -3,
    "vision_end": -4,
    "gen": -5,
    "eos": -6,
    "disc": -7,
}
# of the prompts: the chat's head, and what stands between <disc_emb> and the assistant's turn, as UME-R1 has them
HEAD, INSTRUCTION = 14, 66


def config(size: str) -> ModelConfig:
    """Of "2b", "0.1b" or "tiny"."""
    decoder, vision = SHAPES[size]
    ids = {name: decoder["vocab_size"] + place for name, place in SPECIAL.items()}
    return ModelConfig(
        **decoder,
        tie_word_embeddings=True,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        bos_token_id=ids["eos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["eos"],
        vision=VisionConfig(hidden_size=decoder["hidden_size"], **vision),
        dtype="bfloat16",
    )


def special_id(config: ModelConfig, name: str) -> int:
    return config.vocab_size + SPECIAL[name]


@torch.no_grad()
def random_model(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> Qwen2VL:
    """Normal weights from one block of random numbers, tiled: drawing two billion takes longer than the bench."""
    with torch.device("meta"):
        model = Qwen2VL(config).to(dtype)
    model.to_empty(device="cpu")
    block = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).to(dtype)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        flat, spread = parameter.view(-1), parameter.shape[1] ** -0.5
        for start in range(0, len(flat), len(block)):
            part = flat[start : start + len(block)]
            # another place of the block for every piece, so that rows are not copies of each other
            shift = (number * 7919 + start // len(block) * 104_729) % (len(block) // 2)
            size = min(len(part), len(block) // 2)
            for place in range(0, len(part), size):
                piece = part[place : place + size]
                piece.copy_(block[shift : shift + len(piece)]).mul_(spread)
    for layers in (model.vision.blocks, model.decoder.layers):
        for layer in layers:
            for module in layer.residual_outputs():
                module.weight.div_((2 * len(layers)) ** 0.5)
    return model.eval()


def prompt(config: ModelConfig, kind: str, seed: int) -> Sequence:
    """ "text-120": 120 words' ids; "image-64", "image-256", "video-128": so many visual tokens and a short text."""
    generator = torch.Generator().manual_seed(seed)
    name, _, size = kind.partition("-")
    count = int(size)
    head, tail = _ids(config, HEAD, generator), _ids(config, INSTRUCTION, generator)
    disc = torch.tensor([special_id(config, "disc")])
    if name == "text":
        ids = torch.cat([head, _ids(config, count, generator), disc, tail])
        return Sequence(
            ids, torch.zeros(len(ids), dtype=torch.bool), None, torch.zeros(0, 3, dtype=torch.int64)
        )
    grid = GRIDS[kind]
    placeholders = torch.full((count,), special_id(config, name))
    frame = (torch.tensor([special_id(config, f"vision_{end}")]) for end in ("start", "end"))
    start, end = frame
    pieces = [head, start, placeholders, end, _ids(config, 16, generator), disc, tail]
    ids = torch.cat(pieces)
    mask = torch.zeros(len(ids), dtype=torch.bool)
    mask[HEAD + 1 : HEAD + 1 + count] = True
    patches = torch.randn(count * MERGE**2, PATCH_NUMBERS, generator=generator)
    return Sequence(ids, mask, patches, torch.tensor([grid]))


def disc_position(config: ModelConfig, sequence: Sequence) -> int:
    return int((sequence.input_ids == special_id(config, "disc")).nonzero()[-1])


def _ids(config: ModelConfig, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, config.vocab_size - 16, (count,), generator=generator)


# patches: time, height, width
GRIDS = {
    "image-64": (1, 16, 16),
    "image-256": (1, 32, 32),
    "video-128": (4, 8, 16),
    "image-1": (1, 2, 2),
    "image-4": (1, 4, 4),
    "video-8": (2, 4, 4),
}
SHAPES = {
    "2b": (
        dict(vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
             num_key_value_heads=2, mrope_section=(16, 24, 24)),
        dict(depth=32, embed_dim=1280, num_heads=16),
    ),
    "0.1b": (
        dict(vocab_size=32_768, hidden_size=512, intermediate_size=2944, num_hidden_layers=12, num_attention_heads=8,
             num_key_value_heads=2, mrope_section=(8, 12, 12)),
        dict(depth=12, embed_dim=320, num_heads=5),
    ),
    "tiny": (
        dict(vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, mrope_section=(2, 3, 3)),
        dict(depth=2, embed_dim=32, num_heads=2),
    ),
}  # fmt: skip
