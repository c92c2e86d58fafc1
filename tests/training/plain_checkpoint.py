"""A small Qwen2-VL as its makers give it: without <gen_emb> and <disc_emb>."""

import json

import torch

from umer1.model.checkpoint import save_model
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.tiny import build_tokenizer, tiny_config


def plain_checkpoint(directory, **shape):
    """Saves it; returns its tokenizer. Its table has eight rows to spare, as the released ones have."""
    tokenizer = build_tokenizer(["plain text"], 400)
    kept = json.loads(tokenizer.backend_tokenizer.to_str())
    kept["added_tokens"] = [one for one in kept["added_tokens"] if "_emb>" not in one["content"]]
    plain = type(tokenizer)(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(kept)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    small = dict(hidden=32, layers=1, vision_dim=32, vision_depth=1)
    torch.manual_seed(0)
    config = tiny_config(len(plain) + 8, plain, **small | shape)
    save_model(Qwen2VL(config).reset_parameters(), directory)
    plain.save_pretrained(directory)
    return plain
