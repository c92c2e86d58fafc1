"""A training set of a few records of every shape: text, image, two images, video; and a model for it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umer1.prompts import DISC_TOKEN, GENERATION_INSTRUCTION
from umer1.training.settings import RLConfig, SFTConfig

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests

TINY = dict(
    hidden=32, layers=2, heads=4, kv_heads=2, intermediate=64, vision_dim=32, vision_depth=1, vision_heads=2,
    vocab_size=512, initializer_range=0.1,
    limits=dict(
        image_min_pixels=784, image_max_pixels=3136, video_min_pixels=784, video_max_pixels=784, num_frames=4,
        blank_image="none",
    ),
)  # fmt: skip


def human(text: str, placeholder: str = "") -> str:
    return f"{placeholder}{text}\n{DISC_TOKEN}\n{GENERATION_INSTRUCTION}"


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A folder with sft.json (24 pairs of 3 sources) and rl.json (12 pairs)."""
    root = tmp_path_factory.mktemp("records")
    chance = np.random.default_rng(0)

    def picture(name):
        Image.fromarray(chance.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(root / name)
        return name

    sft, rl = [], []
    for number in range(24):
        label = ("cat", "dog", "bird")[number // 2 % 3]
        answer = f"<think>It shows a {label}.</think><answer>{label}\n<gen_emb>"
        if number < 8:
            source, media, placeholder = (
                "pictures",
                {"image": picture(f"{number}.png")},
                "<image>\n",
            )
        elif number < 16:
            frames = [picture(f"{number}_{frame}.png") for frame in range(2 + number % 3)]
            source, media, placeholder = "videos", {"video": frames}, "<video>\n"
        else:
            source, media, placeholder = "texts", {}, ""
            if number == 20:
                pair = [picture("20a.png"), picture("20b.png")]
                media, placeholder = {"image": pair}, "<image>\n<image>\n"
        question = f"What is number {number}?"
        sft.append({
            "dataset_name": source,
            "qry": {"conversations": [{"from": "human", "value": human(question, placeholder)},
                                      {"from": "gpt", "value": answer}], **media},
            "pos": {"conversations": [{"from": "human", "value": human(label)}, {"from": "gpt", "value": answer}]},
        })  # fmt: skip
        if number % 2 == 0 and number != 20:
            rl.append({
                "dataset": "test", "dataset_name": source, "solution": "<embedding>", "qry_text": question,
                "qry_image": media.get("image", ""), "qry_video": media.get("video", [""]),
                "pos_text": f"{label} {number}", "pos_image": "", "pos_video": [""],
            })  # fmt: skip
    (root / "sft.json").write_text(json.dumps(sft))
    (root / "rl.json").write_text(json.dumps(rl))
    return root


@pytest.fixture
def sft_config(records, tmp_path):
    return SFTConfig(
        data=str(records / "sft.json"), output=str(tmp_path / "sft"), steps=4, batch_size=8, group_size=4, seed=1,
        freeze_vision=False, log_every=1, tiny=dict(TINY),
    )  # fmt: skip


@pytest.fixture
def rl_config(records, tmp_path):
    return RLConfig(
        data=str(records / "rl.json"), output=str(tmp_path / "rl"), steps=2, batch_size=4, generations=3, seed=1,
        max_new_tokens=12, rollout_slots=8, log_every=1, tiny=dict(TINY),
    )  # fmt: skip
