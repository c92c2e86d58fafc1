"""What goes to other engines and what is made of their answers, without any server."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.engine.hf import _thinking
from umer1.engine.remote.outcome import outcome, rest_of_tag
from umer1.engine.remote.reread import Reader, Written
from umer1.engine.remote.wire import media_pixels, wire_prompt
from umer1.media import PixelFormat, image_patches, video_patches
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.sequence import Sequence

FORMAT = PixelFormat()
CONFIG = ModelConfig(1000, 256, 48, 1, 2, 1, vision=VisionConfig(1, 16, 256, 2))
GEN, EOS = 5, 6


def _noise(frames, height, width):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def _sequence(kinds):
    """One medium after the other, a token of text before, between and after them."""
    ids, mask, patches, grids = [1], [False], [], []
    for kind in kinds:
        pixels = _noise(1 if kind == "image" else 3, 84, 112)
        frames = [Image.fromarray(frame) for frame in pixels]
        made, grid = (
            image_patches(frames[0], FORMAT, 784, 1 << 20)
            if kind == "image"
            else video_patches(frames, FORMAT, 784, 1 << 20)
        )
        pad = CONFIG.image_token_id if kind == "image" else CONFIG.video_token_id
        ids += [pad] * (len(made) // 4) + [2]
        mask += [True] * (len(made) // 4) + [False]
        patches.append(made)
        grids.append(grid)
    return Sequence(torch.tensor(ids), torch.tensor(mask), torch.cat(patches), torch.stack(grids))


@pytest.mark.parametrize("levels", ["noise", "all"])
def test_pixels_come_back_bit_for_bit(levels):
    """Every level of every colour: the scaling loses nothing that rounding does not give back."""
    frames = _noise(3, 56, 84)
    if levels == "all":
        frames[0, :3, :84] = np.arange(252, dtype=np.uint8).reshape(3, 84, 1)
        frames[1, 0, :4] = [[252] * 3, [253] * 3, [254] * 3, [255] * 3]
    patches, grid = video_patches([Image.fromarray(each) for each in frames], FORMAT, 784, 1 << 20)
    back = media_pixels(patches, grid.tolist(), FORMAT)
    np.testing.assert_array_equal(back, np.concatenate([frames, frames[-1:]]))


def test_a_prompt_has_one_placeholder_per_medium_and_pictures_without_loss():
    sequence = _sequence(["image", "video", "image"])
    wire = wire_prompt(sequence, CONFIG, FORMAT, "prompt 0")
    image, video = CONFIG.image_token_id, CONFIG.video_token_id
    assert wire.ids == [1, image, 2, video, 2, image, 2]
    assert wire.whole == sequence.input_ids.tolist()
    assert [(medium.kind, len(medium.frames)) for medium in wire.media] == [
        ("image", 1), ("video", 4), ("image", 1)
    ]  # fmt: skip
    sizes = sequence.grid_thw.prod(-1).tolist()
    for medium, patches in zip(wire.media, sequence.pixel_values.split(sizes)):
        frames = [Image.open(io.BytesIO(base64.b64decode(frame))) for frame in medium.frames]
        cut = image_patches if medium.kind == "image" else video_patches
        again, _ = cut(frames[0] if medium.kind == "image" else frames, FORMAT, 784, 1 << 20)
        assert torch.equal(again, patches)
    head = wire.head(len(wire.whole) - 1)
    assert (head.ids, head.whole) == (wire.ids[:-1], wire.whole[:-1])


def test_a_placeholder_without_a_medium_is_named():
    ids = torch.tensor([1, CONFIG.image_token_id])
    bare = Sequence(ids, torch.zeros(2, dtype=torch.bool), None, torch.zeros(0, 3).long())
    with pytest.raises(ValueError, match="prompt 3: token 1 is a placeholder without a medium"):
        wire_prompt(bare, CONFIG, FORMAT, "prompt 3")


@pytest.mark.parametrize(
    ("written", "stop", "limit", "expected"),
    [
        ([1, GEN], "first", 9, ([1, GEN], 1, True, "gen_emb")),
        ([1, GEN, EOS, 2], "first", 9, ([1, GEN], 1, True, "gen_emb")),
        ([1, GEN], "first", 2, ([1, GEN], 1, True, "gen_emb")),
        ([1, EOS], "first", 9, ([1, EOS], 0, False, "eos")),
        ([EOS], "first", 9, ([EOS], -1, False, "eos")),
        ([1, 2], "first", 2, ([1, 2], 0, False, "length")),
        ([1, 2, 3], "first", 2, ([1, 2], 0, False, "length")),
        ([1, 2], "first", 3, None),
        ([1, GEN], "eos", 9, None),
        ([GEN, 1, GEN, 2, EOS], "eos", 9, ([GEN, 1, GEN, 2, EOS], 2, True, "gen_emb")),
        ([GEN, 1], "eos", 2, ([GEN, 1], 0, True, "length")),
        ([1, GEN], "eos", 2, ([1, GEN], 1, True, "length")),
        ([1, EOS, GEN], "eos", 9, ([1, EOS], 0, False, "eos")),
    ],
)
def test_how_a_row_ends(written, stop, limit, expected):
    assert outcome(written, SpecialTokens(GEN, EOS), Sampling(limit, stop=stop)) == expected


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_rest_of_the_tag_is_that_of_the_engines(written, ends):
    seen = 0
    for token in written:
        seen = _thinking(seen, token, tuple(ends))
    assert rest_of_tag(written, SpecialTokens(GEN, EOS, tuple(ends))) == tuple(ends)[seen:]


def test_a_reading_equals_what_the_native_engine_found(model, make_prompts):
    """Vectors and log-probabilities, sampled at a temperature, alone or in any batch."""
    prompts = make_prompts(6, seed=4)
    native = NativeEngine(model, SpecialTokens(7, 10_000), slots=4)
    done = sorted(
        native.submit(prompts, Sampling(10, temperature=0.7, seed=1)), key=lambda each: each.prompt
    )
    rows = [
        Written(
            prompt.sequence,
            each.rollout.tokens,
            [prompt.disc_position, len(prompt.sequence) + len(each.rollout.tokens) - 1],
            0.7,
        )
        for prompt, each in zip(prompts, done)
    ]
    small, large = Reader(model, tokens=30), Reader(model)
    alone = [small.read([row])[0] for row in rows]
    for each, one, (vectors, logprobs) in zip(done, alone, large.read(rows)):
        torch.testing.assert_close(vectors[0], each.disc, atol=1e-5, rtol=0)
        if each.rollout.hit:
            torch.testing.assert_close(vectors[1], each.rollout.vector, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            torch.tensor(logprobs), torch.tensor(each.rollout.logprobs), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(vectors[0], one.vectors[0], atol=1e-6, rtol=0)
    assert any(each.rollout.hit for each in done)
    assert len(small.read(rows)) == len(rows)
    assert large.features.bytes > 0


def test_a_prompt_alone_is_read_too(model, make_prompts):
    (prompt,) = make_prompts(1)
    (reading,) = Reader(model).read([Written(prompt.sequence, [], [0], 0.0)])
    (native,) = NativeEngine(model, SpecialTokens(7, 8)).submit(
        [Prompt(prompt.sequence, 0, 0)], Sampling(1), samples=0
    )
    torch.testing.assert_close(reading.vectors[0], native.disc, atol=1e-6, rtol=0)
    assert reading.logprobs == []
