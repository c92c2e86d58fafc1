"""Encoded text, images and videos are those of transformers; modes, limits and errors."""

import re

import numpy as np
import pytest
import torch
from processor_inputs import ASK, CLIP, expected_inputs, make_tokenizer, noise, text_part
from transformers import Qwen2VLProcessor

from umer1.media import EVALUATION_LIMITS, SFT_LIMITS, MediaError, MediaLimits
from umer1.model.sequence import pack
from umer1.processor import Processor
from umer1.prompts import DIALECTS, Item, Medium


def test_text_and_images_are_those_of_transformers(processor, reference):
    assert isinstance(reference, Qwen2VLProcessor)
    pictures = [noise(), noise(90, 70, 1), noise(33, 130, 2)]
    for count in (0, 1, 3):
        parts = [{"type": "image", "image": picture} for picture in pictures[:count]]
        expected = expected_inputs(reference, *parts, text_part("What is it?" + ASK))
        sequence = processor.encode({"text": "What is it?", "images": pictures[:count]})
        assert sequence.input_ids.tolist() == expected["input_ids"][0].tolist()
        mask = expected["input_ids"][0] == processor.image_pad_id
        assert torch.equal(sequence.media_mask, mask)
        if count:
            assert torch.equal(sequence.pixel_values, expected["pixel_values"])
            assert torch.equal(sequence.grid_thw, expected["image_grid_thw"])
        else:
            assert sequence.pixel_values is None and sequence.grid_thw.shape == (0, 3)


def test_videos_are_those_of_transformers(processor, reference):
    expected = expected_inputs(
        reference, {"type": "video", "video": CLIP}, text_part("What happens?" + ASK)
    )
    sequence = processor.encode({"text": "What happens?", "video": CLIP})
    assert sequence.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert torch.equal(sequence.media_mask, expected["input_ids"][0] == processor.video_pad_id)
    assert torch.equal(sequence.pixel_values, expected["pixel_values_videos"])
    assert torch.equal(sequence.grid_thw, expected["video_grid_thw"])
    assert sequence.grid_thw[0, 0] == 3  # five frames: the last one stands twice


def test_messages_with_media_in_between(processor, reference):
    content = [
        text_part("Before "),
        {"type": "image", "image": noise()},
        text_part(" between"),
        {"type": "video", "video": CLIP},
        text_part(" after"),
    ]
    sequence = processor.encode([{"role": "user", "content": content}], mode="plain")
    expected = expected_inputs(reference, *content)
    assert sequence.input_ids.tolist() == expected["input_ids"][0].tolist()
    both = torch.cat([expected["pixel_values"], expected["pixel_values_videos"]])
    assert torch.equal(sequence.pixel_values, both)
    assert sequence.grid_thw.tolist() == [
        *expected["image_grid_thw"].tolist(),
        *expected["video_grid_thw"].tolist(),
    ]
    pack([sequence])  # placeholders, grids and patches agree


def test_the_released_inference_resizes_twice():
    """README and evaluation: fetch_image of qwen-vl-utils, then the processor, with its limits."""
    fetch_image = pytest.importorskip("qwen_vl_utils").fetch_image
    from transformers import Qwen2VLImageProcessor

    limits = MediaLimits(image_max_pixels=40_000, fetch_sizes=True)
    processor = Processor.from_parts(make_tokenizer(), limits)
    second = Qwen2VLImageProcessor(min_pixels=784, max_pixels=40_000)
    for size in [(28, 28), (90, 70), (300, 260), (20, 300)]:
        expected = second([fetch_image({"image": noise(*size)})], return_tensors="pt")
        sequence = processor.encode({"image": noise(*size)})
        assert torch.equal(sequence.pixel_values, expected["pixel_values"])
        assert torch.equal(sequence.grid_thw, expected["image_grid_thw"])


def test_grids_of_the_released_video_inference():
    """fetch_video of a list: every frame through fetch_image, then 128 … 768 tokens a frame."""
    fetch_image = pytest.importorskip("qwen_vl_utils").fetch_image
    from torchvision.transforms import InterpolationMode, functional
    from transformers import Qwen2VLVideoProcessor

    processor = Processor.from_parts(make_tokenizer(), EVALUATION_LIMITS)
    frames = [noise(320, 240, seed) for seed in range(2)]
    fetched = [np.array(fetch_image({"image": frame})) for frame in frames]
    pixels = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in fetched])
    assert pixels.shape[2:] == (252, 308)
    pixels = functional.resize(pixels, [308, 364], InterpolationMode.BICUBIC, antialias=True)
    last = Qwen2VLVideoProcessor(min_pixels=784, max_pixels=2_359_296)
    expected = last([pixels], return_tensors="pt", do_sample_frames=False)
    sequence = processor.encode({"video": frames})
    assert sequence.grid_thw.tolist() == [[1, 22, 26]] == expected["video_grid_thw"].tolist()
    assert torch.equal(sequence.pixel_values, expected["pixel_values_videos"])


def test_disc_mode_is_the_beginning_of_gen_mode(processor):
    item = {"text": "a <disc_emb> cat", "image": noise()}
    for dialect in DIALECTS:
        gen = processor.encode(item, dialect=dialect)
        place = processor.disc_position(gen)
        disc = processor.encode(item, mode="disc", dialect=dialect)
        assert disc.input_ids[-1] == processor.disc_id
        assert torch.equal(disc.input_ids, gen.input_ids[: place + 1])
        assert processor.disc_position(disc) == len(disc) - 1
        after = processor.encode(item, mode="disc", dialect=dialect, readout="after")
        assert torch.equal(after.input_ids, gen.input_ids[: place + 2])
        assert processor.decode(after.input_ids[-1:]) == "\n"
        pack([disc, after, gen])


def test_plain_mode(processor):
    sequence = processor.encode("a cat", mode="plain")
    assert processor.decode(sequence.input_ids).endswith(
        "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    )
    with pytest.raises(ValueError, match="sequence: has no <disc_emb>"):
        processor.disc_position(sequence)


def test_the_instruction_holds_the_gen_token(processor):
    """So its first occurrence is not the answer's (hazard H1)."""
    ids = processor.encode("a cat").input_ids.tolist()
    assert ids.count(processor.gen_id) == 1
    assert ids.index(processor.gen_id) > ids.index(processor.disc_id)


def test_bad_readout(processor):
    with pytest.raises(ValueError, match="readout: got 'before', wants 'at' or 'after'"):
        processor.encode("a", mode="disc", readout="before")


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        (EVALUATION_LIMITS, 4),
        (SFT_LIMITS, 1),
        (MediaLimits(blank_image="evaluation"), 4),
        (MediaLimits(blank_image="sft", fetch_sizes=True), 1),
        (MediaLimits(blank_image="none"), 0),
    ],
)
def test_blank_images(limits, tokens):
    processor = Processor.from_parts(make_tokenizer(), limits)
    sequence = processor.encode("a cat")
    assert sequence.media_mask.sum() == tokens
    assert processor.encode({"text": "a", "image": noise(112, 112)}).grid_thw.shape == (1, 3)
    record, _ = processor.encode_turns(f"a cat{ASK}", "<think>")
    assert record.media_mask.sum() == tokens
    if tokens:
        white = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
            [0.26862954, 0.26130258, 0.27577711]
        )
        patches = sequence.pixel_values.view(-1, 3, 2 * 14 * 14)
        torch.testing.assert_close(patches, white.view(1, 3, 1).expand_as(patches))
        assert "<|vision_end|>\na cat" in processor.decode(record.input_ids)


def test_settings_of_one_medium(processor):
    def tokens(**settings):
        return int(
            processor.encode(
                Item("", (Medium("image", noise(280, 280), **settings),))
            ).media_mask.sum()
        )

    assert tokens() == 100
    assert tokens(max_pixels=25 * 784) == 25
    assert tokens(max_pixels=10**7, min_pixels=110 * 784) == 121
    clip = [noise(140, 140)] * 8

    def frames(**settings):
        return processor.encode(Item("", (Medium("video", clip, **settings),))).grid_thw.tolist()

    assert frames() == [[4, 10, 10]]
    assert frames(num_frames=2) == [[1, 10, 10]]
    assert frames(max_pixels=9 * 784) == [[4, 6, 6]]
    assert frames(total_pixels=8 * 9 * 784 // 2) == [[4, 6, 6]]


def test_decode(processor):
    ids = processor.encode("漢字 12").input_ids
    assert processor.decode(ids).startswith("<|im_start|>system\nYou are a helpful assistant.")
    assert processor.decode(ids) == processor.decode(ids.tolist())
    assert "漢字 12\n<disc_emb>\n" in processor.decode(ids)
    assert processor.decode([10**6]) == ""  # models have more rows than their tokenizer has tokens


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": "missing.jpg"}, "item 0, field 'image': no such file: missing.jpg"),
        ({"images": [noise(), "no.jpg"]}, "item 0, field 'images[1]': no such file: no.jpg"),
        ({"video": []}, "item 0, field 'video': a video of no frames"),
        ({"video": ["no.jpg"]}, "item 0, field 'video', frame 0: no such file: no.jpg"),
        ({"image": noise(300, 1)}, "item 0, field 'image': 300 x 1 pixels: one side is 300 times"),
        (
            [{"role": "user", "content": [{"type": "image", "image": "no.jpg"}]}],
            "item 0, field 'content[0]': no such file: no.jpg",
        ),
    ],
)
def test_bad_media_name_item_and_field(processor, item, message):
    with pytest.raises(MediaError, match=re.escape(message)):
        processor.encode(item)
