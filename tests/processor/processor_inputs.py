"""What the processor's tests share: a small tokenizer, small media, transformers' own inputs."""

import numpy as np
from PIL import Image

from umer1.media import MediaLimits
from umer1.model.tiny import build_tokenizer
from umer1.prompts import GENERATION_INSTRUCTION

CORPUS = [
    GENERATION_INSTRUCTION,
    "You are a helpful assistant.\nsystem user assistant",
    "What is in the image? It's a red bicycle, 12 of 345!\n\n  Ünïcödé 漢字 done.",
] * 3
LIMITS = MediaLimits(
    image_min_pixels=784,
    image_max_pixels=100_000,
    video_min_pixels=784,
    video_max_pixels=20_000,
    blank_image="none",
)
ASK = f"\n<disc_emb>\n{GENERATION_INSTRUCTION}"


def make_tokenizer(phrases=(), corpus=CORPUS):
    return build_tokenizer(corpus, 700, phrases=phrases)


PHRASES = [
    "You are a helpful assistant.",
    "system\nYou are a helpful assistant.",
    " tag to represent the entire input.",
    GENERATION_INSTRUCTION.partition("<think>")[0],
]


def noise(width=112, height=28, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


CLIP = [noise(60, 60, seed) for seed in range(5)]


def expected_inputs(reference, *content):
    messages = [{"role": "user", "content": list(content)}]
    text = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images = [part["image"] for part in content if part["type"] == "image"]
    clips = [part["video"] for part in content if part["type"] == "video"]
    return reference(
        text=[text],
        images=images or None,
        videos=clips or None,
        do_sample_frames=False,
        return_tensors="pt",
    )


def text_part(text):
    return {"type": "text", "text": text}
