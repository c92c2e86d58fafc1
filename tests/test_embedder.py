"""`Embedder.encode`: shapes, modes, read-outs, misses, bad input."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from umer1 import Embedder
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import pack
from umer1.model.tiny import build_tokenizer, tiny_config
from umer1.processor import MediaLimits, Processor

LIMITS = MediaLimits(
    image_min_pixels=784, image_max_pixels=3136, video_min_pixels=784, video_max_pixels=784, num_frames=4,
    blank_image="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a cat", "a dog"], 420)
    config = tiny_config(len(tokenizer), tokenizer, hidden=32, layers=2, intermediate=48, vision_dim=32, vision_depth=1,
                         vision_heads=2, initializer_range=0.3)  # fmt: skip
    return Embedder(Qwen2VL(config).reset_parameters(), Processor.from_parts(tokenizer, LIMITS))


@pytest.fixture(scope="module")
def items():
    picture = Image.fromarray(np.arange(28 * 56 * 3, dtype=np.uint8).reshape(28, 56, 3))
    frames = [picture.rotate(angle) for angle in (0, 90, 180)]
    return ["a cat", {"image": picture, "text": "what is it?"}, {"images": [picture, picture.rotate(5)]},
            {"video": frames, "instruction": "Describe", "text": "this"}]  # fmt: skip


def test_both_modes_from_one_call(embedder, items):
    out = embedder.encode(items, max_new_tokens=5, progress=False)
    for vectors in (out.disc, out.gen):
        assert (
            vectors.shape == (4, 32) and vectors.dtype == np.float32 and vectors.flags.c_contiguous
        )
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(out.reasoning) == len(out.summary) == len(out.tokens) == len(out.finish) == 4
    assert set(out.finish) <= {"gen_emb", "length", "eos"} and out.hit.shape == (4,)


@pytest.mark.parametrize("readout", ["at", "after"])
def test_disc_is_the_state_at_its_token_in_every_mode_and_batch_size(embedder, items, readout):
    wanted = []
    for item in items:
        sequence = embedder.processor.encode(item, mode="gen")
        place = embedder.processor.disc_position(sequence) + (readout == "after")
        with torch.no_grad():
            wanted.append(F.normalize(embedder.model(pack([sequence]))[place], dim=-1))
    for mode, batch_size in (("disc", 1), ("disc", 3), ("both", 2)):
        out = embedder.encode(
            items, mode, max_new_tokens=2, batch_size=batch_size, readout=readout, progress=False
        )
        np.testing.assert_allclose(out.disc, torch.stack(wanted).numpy(), atol=1e-5)


def test_samples_have_an_axis_of_their_own(embedder, items):
    out = embedder.encode(
        items, "gen", max_new_tokens=4, temperature=1.0, n=3, seed=1, progress=False
    )
    assert out.disc is None and out.gen.shape == (4, 3, 32) and out.hit.shape == (4, 3)
    assert all(len(texts) == 3 for texts in out.reasoning)
    again = embedder.encode(
        items, "gen", max_new_tokens=4, temperature=1.0, n=3, seed=1, batch_size=7, progress=False
    )
    np.testing.assert_allclose(out.gen, again.gen, atol=1e-5)
    other = embedder.encode(
        items, "gen", max_new_tokens=4, temperature=1.0, n=3, seed=2, progress=False
    )
    assert out.tokens != other.tokens or not np.allclose(out.gen, other.gen)


def test_a_miss_is_reported(embedder, caplog):
    with caplog.at_level(logging.WARNING, "umer1"):
        out = embedder.encode("a cat", "gen", max_new_tokens=1, progress=False)
    assert not out.hit.any() and out.finish == ["length"] and "no <gen_emb>" in caplog.text


def test_one_item_and_none(embedder):
    assert embedder.encode("a cat", "disc", progress=False).disc.shape == (1, 32)
    messages = [{"role": "user", "content": "a cat"}]
    np.testing.assert_allclose(
        embedder.encode(messages, "disc", progress=False).disc,
        embedder.encode("a cat", "disc", progress=False).disc,
    )
    empty = embedder.encode([], progress=False)
    assert empty.disc.shape == empty.gen.shape == (0, 32)


@pytest.mark.parametrize("arguments, message", [
    ({"mode": "best"}, "mode: got 'best'"), ({"readout": "before"}, "readout: got 'before'"),
    ({"n": 2}, "n: got 2 with temperature 0"), ({"n": 0, "temperature": 1.0}, "n: got 0"),
    ({"batch_size": 0}, "batch_size: got 0"), ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
    ({"stop": "never"}, "stop: got 'never'"),
])  # fmt: skip
def test_bad_arguments_name_themselves(embedder, arguments, message):
    with pytest.raises(ValueError, match=message):
        embedder.encode("a cat", progress=False, **arguments)


def test_bad_items_name_their_number_and_field(embedder, tmp_path):
    with pytest.raises(ValueError, match="item 1.*'image'"):
        embedder.encode(["a", {"image": tmp_path / "none.png"}], progress=False)
    with pytest.raises(ValueError, match="item 0.*unknown key 'txt'"):
        embedder.encode({"txt": "a"}, progress=False)
