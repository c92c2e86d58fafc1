"""Pictures from every source, sizes and patches against transformers and qwen-vl-utils."""

import base64
import io
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from umer1.media import (
    EVALUATION_LIMITS,
    SFT_LIMITS,
    MediaError,
    MediaLimits,
    PixelFormat,
    blank_image,
    fetched_image,
    image_patches,
    load_image,
    smart_resize,
    video_patches,
)

FORMAT = PixelFormat()
# odd sizes, exact sizes, tiny, wide, tall, and above the largest limit used here
SIZES = [(28, 28), (112, 28), (30, 29), (56, 84), (641, 480), (123, 999), (28, 2000), (700, 713)]


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def same(left, right):
    return left.mode == right.mode and left.tobytes() == right.tobytes()


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- sources ---


def test_every_source_gives_the_same_picture(tmp_path):
    image = noise(33, 21)
    path = tmp_path / "a b%20.png"
    path.write_bytes(png(image))
    encoded = base64.b64encode(png(image)).decode()
    sources = [
        image,
        np.asarray(image),
        png(image),
        bytearray(png(image)),
        path,
        str(path),
        path.as_uri(),
        f"data:image/png;base64,{encoded}",
        f"data:image;base64,{encoded}",
    ]
    for source in sources:
        assert same(load_image(source), image)


def test_modes_become_rgb():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert same(load_image(grey), Image.fromarray(grey).convert("RGB"))
    assert load_image(Image.new("L", (2, 3), 9)).getpixel((0, 0)) == (9, 9, 9)
    # transparent becomes white, not the colour that happens to be stored under it
    assert load_image(Image.new("RGBA", (2, 3), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(Image.new("RGBA", (2, 3), (9, 8, 7, 255))).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_a_transparent_ground_is_white_in_every_mode(mode, tmp_path):
    """A black logo must not become black on black."""
    logo = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    logo.putpixel((1, 1), (0, 0, 0, 255))
    wanted = load_image(logo)
    assert wanted.getpixel((0, 0)) == (255, 255, 255) and wanted.getpixel((1, 1)) == (0, 0, 0)
    made = logo.convert("LA") if mode == "LA" else logo.quantize() if mode == "P" else logo
    assert same(load_image(made), wanted)
    made.save(tmp_path / "logo.png")
    assert same(load_image(tmp_path / "logo.png"), wanted)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_keep_their_levels(suffix, tmp_path):
    levels = np.linspace(0, 0xFFFF, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / f"scan.{suffix}")
    grey = np.asarray(load_image(tmp_path / f"scan.{suffix}"))[:, :, 0].ravel()
    assert grey.tolist() == list(range(256))
    with pytest.raises(MediaError, match="grey levels from -1 to 70000, wants 8 or 16 bits"):
        load_image(Image.fromarray(np.array([[-1, 70000]], np.int32)))


def truncated_jpeg():
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "JPEG")
    return buffer.getvalue()[:1500]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jpg", "no such file: missing.jpg"),
        (Path("missing.jpg"), "no such file: missing.jpg"),
        ("file:///missing.jpg", "no such file: /missing.jpg"),
        ("", "is an empty string"),
        ("a\0b", "no such file"),
        ("ftp://host/a.jpg", "cannot open ftp://host/a.jpg: wants a path or a file, http, https"),
        (os.curdir, "is a directory, wants an image file"),
        (truncated_jpeg(), "truncated or damaged image"),
        (png(noise(64, 64))[:2000], "truncated or damaged image"),
        (b"hello", "not an image: 5 bytes"),
        (b"", "not an image: 0 bytes"),
        (EPS, "not an image"),
        ("data:image/png;base64", "data URI without a comma"),
        ("data:image/png;base64,@@@", "broken base64"),
        ("data:text/plain,hello", "not an image"),
        (3, "wants a path, URI, bytes, PIL image or uint8 array, got int"),
        (None, "got NoneType"),
        (["a.jpg"], "got list"),
        (np.zeros((2, 2, 3)), "wants a uint8 array [H, W, 3] or [H, W], got float64 [2, 2, 3]"),
        (np.zeros((2, 2, 4), np.uint8), "got uint8 [2, 2, 4]"),
        (np.zeros((0, 2, 3), np.uint8), "got uint8 [0, 2, 3]"),
        (Image.new("RGB", (0, 3)), "0 x 3 pixels, wants at least one"),
    ],
)
def test_bad_pictures(source, message):
    with pytest.raises(MediaError, match="^item 3, field 'image': .*" + re.escape(message)):
        load_image(source, "item 3, field 'image'")


def test_bytes_of_a_large_uri_stay_out_of_the_message():
    with pytest.raises(MediaError) as error:
        load_image("data:image/png;base64," + "A" * 100_000)
    assert len(str(error.value)) < 300


def test_data_uri_limit(monkeypatch):
    monkeypatch.setattr("umer1.media.images.IMAGE_BYTES", 1 << 20)
    with pytest.raises(MediaError, match="data URI of 1500000 characters, wants at most 1 MiB"):
        load_image("data:image/png;base64," + "A" * 1_500_000)


def test_decompression_bombs(monkeypatch):
    bomb = png(Image.new("RGB", (400, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow itself raises above twice that
    with pytest.raises(MediaError, match="120000 pixels"):
        load_image(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # Pillow only warns
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(MediaError, match="400 x 300"):
        load_image(bomb)
    with pytest.raises(MediaError, match="wants at most 100000"):
        load_image(Image.new("RGB", (400, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(bomb).size == (400, 300)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MediaError, match="not a regular file"):
        load_image(tmp_path / "pipe.png")


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(png(noise(4, 4)))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MediaError, match="cannot read .*a.png: Permission denied"):
        load_image(path)


# --- limits ---


def test_upstream_limits():
    assert SFT_LIMITS == MediaLimits(
        image_min_pixels=768,
        image_max_pixels=2_359_296,
        video_min_pixels=4 * 784,
        video_max_pixels=32 * 784,
        num_frames=8,
        blank_image="sft",
        fetch_sizes=False,
    )
    assert EVALUATION_LIMITS == MediaLimits(
        image_min_pixels=784,
        image_max_pixels=2_359_296,
        video_min_pixels=128 * 784,
        video_max_pixels=768 * 784,
        num_frames=8,
        blank_image="evaluation",
        fetch_sizes=True,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_min_pixels": 0}, "image_min_pixels: wants a positive whole number, got 0"),
        ({"num_frames": 8.0}, "num_frames: wants a positive whole number, got 8.0"),
        ({"num_frames": True}, "num_frames: wants a positive whole number, got True"),
        ({"video_max_pixels": 9}, "video_min_pixels: 100352 is more than video_max_pixels 9"),
        ({"blank_image": "white"}, "blank_image: wants one of"),
        ({"min_pixels": 3}, "limits: unknown key 'min_pixels', wants any of image_min_pixels"),
    ],
)
def test_bad_limits(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MediaLimits.from_dict(values)


def test_blank_images():
    assert blank_image("none") is None
    assert same(blank_image("sft"), Image.new("RGB", (28, 28), "white"))
    assert same(blank_image("evaluation"), Image.new("RGB", (56, 56), "white"))


# --- sizes and patches ---


def test_sizes_are_those_of_transformers():
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as reference

    numbers = random.Random(0)
    for _ in range(3000):
        height, width = numbers.randint(1, 3000), numbers.randint(1, 3000)
        low = numbers.choice([768, 3136, 100_352])
        high = max(low, numbers.choice([25_088, 602_112, 2_359_296]))
        if max(height, width) / min(height, width) <= 200:
            expected = reference(height, width, 28, low, high)
            assert smart_resize(height, width, 28, low, high) == expected


@pytest.mark.parametrize("sides", [(1, 201), (201, 1)])
def test_extreme_proportions(sides):
    with pytest.raises(MediaError, match="one side is 201 times the other, wants at most 200"):
        image_patches(noise(*sides), FORMAT, 784, 10**6)


@pytest.mark.parametrize("size", SIZES)
def test_image_patches_are_those_of_transformers(size):
    from transformers import Qwen2VLImageProcessor

    reference = Qwen2VLImageProcessor(min_pixels=784, max_pixels=200_000)
    image = noise(*size)
    expected = reference([image], return_tensors="pt")
    patches, grid = image_patches(image, FORMAT, 784, 200_000)
    torch.testing.assert_close(patches, expected["pixel_values"], rtol=0, atol=0)
    assert grid.tolist() == expected["image_grid_thw"][0].tolist()
    assert grid.dtype == torch.int64 and patches.dtype == torch.float32


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [(56, 28), (33, 61), (20, 100), (320, 240)])
def test_video_patches_are_those_of_transformers(frames, size):
    from transformers import Qwen2VLVideoProcessor

    reference = Qwen2VLVideoProcessor(min_pixels=3136, max_pixels=25_088)
    video = [noise(*size, seed) for seed in range(frames)]
    expected = reference([video], return_tensors="pt", do_sample_frames=False)
    patches, grid = video_patches(video, FORMAT, 3136, 25_088)
    torch.testing.assert_close(patches, expected["pixel_values_videos"], rtol=0, atol=0)
    assert grid.tolist() == expected["video_grid_thw"][0].tolist()


def test_other_pixel_formats_follow_transformers():
    from transformers import Qwen2VLImageProcessor

    values = {"patch_size": 8, "temporal_patch_size": 4, "merge_size": 3}
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    reference = Qwen2VLImageProcessor(
        **values, min_pixels=784, max_pixels=9000, image_mean=list(mean), image_std=list(std)
    )
    image = noise(77, 50)
    expected = reference([image], return_tensors="pt")
    patches, grid = image_patches(image, PixelFormat(**values, mean=mean, std=std), 784, 9000)
    torch.testing.assert_close(patches, expected["pixel_values"], rtol=0, atol=0)
    assert grid.tolist() == expected["image_grid_thw"][0].tolist()


def test_small_images_grow_in_proportion():
    """The SFT loader swaps the sides of such an image and rounds down, to 27 at times."""
    _, grid = image_patches(noise(20, 100), FORMAT, 784, 10**6)
    assert grid.tolist() == [1, 10, 2]
    whole, _ = image_patches(noise(20, 100).resize((28, 140), 3), FORMAT, 784, 10**6)
    torch.testing.assert_close(image_patches(noise(20, 100), FORMAT, 784, 10**6)[0], whole)


@pytest.mark.parametrize("size", [*SIZES, (5, 60), (27, 27), (3000, 2000)])
def test_fetched_image_is_that_of_qwen_vl_utils(size):
    reference = pytest.importorskip("qwen_vl_utils").fetch_image
    image = noise(*size)
    assert same(fetched_image(image, 28, 4 * 784, 16384 * 784), reference({"image": image}))
    limited = reference({"image": image, "min_pixels": 9 * 784, "max_pixels": 100 * 784})
    assert same(fetched_image(image, 28, 9 * 784, 100 * 784), limited)


def test_limits_cannot_be_changed_behind_a_processor():
    with pytest.raises(AttributeError):
        EVALUATION_LIMITS.num_frames = 4
    assert replace(EVALUATION_LIMITS, num_frames=4).num_frames == 4
