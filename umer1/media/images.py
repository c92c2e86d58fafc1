"""One image, from any source, as RGB."""

from __future__ import annotations

import io
import math
import os
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from umer1.media.sources import (
    DECODER_ERRORS,
    IMAGE_BYTES,
    MediaError,
    local_path,
    read_uri,
    shorten,
)

# raster formats that Pillow decodes by itself; EPS, for one, would start Ghostscript
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def load_image(source: Any, where: str = "image") -> Image.Image:
    """`source` as a decoded RGB image.

    What is transparent gets a white ground (RGBA as in qwen-vl-utils, palettes and grey alike), 16 bits of grey become
    the same grey in 8. Orientation in EXIF is left alone, as there.

    Raises MediaError for whatever is missing, unreadable, cut short or larger than
    PIL.Image.MAX_IMAGE_PIXELS.
    """
    if isinstance(source, Image.Image):
        return _rgb(source, where, "the PIL image")
    if isinstance(source, np.ndarray):
        return _from_array(source, where)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(source), where, f"{len(source)} bytes")
    if not isinstance(source, os.PathLike) and hasattr(source, "read_bytes"):
        return load_image(source.read_bytes(), where)
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(
            f"{where}: wants a path, URI, bytes, PIL image or uint8 array, "
            f"got {type(source).__name__}"
        )
    path = local_path(source, where)
    if path is None:
        return _open(io.BytesIO(read_uri(source, where, IMAGE_BYTES)), where, shorten(source, 60))
    if path.is_dir():
        raise MediaError(f"{where}: is a directory, wants an image file: {path}")
    try:
        with open(path, "rb") as file:
            return _open(file, where, str(path))
    except OSError as error:
        raise MediaError(f"{where}: cannot read {path}: {error.strerror or error}") from None


def max_pixels() -> float:
    """Most pixels of one picture or frame: Pillow's own limit, which users may raise or remove."""
    return Image.MAX_IMAGE_PIXELS or math.inf


def _open(file: Any, where: str, name: str) -> Image.Image:
    try:
        with Image.open(file, formats=_formats()) as image:
            return _rgb(image, where, name)
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError(f"{where}: not an image: {name}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{where}: {error}: {name}") from None
    except DECODER_ERRORS as error:
        raise MediaError(f"{where}: damaged image ({error}): {name}") from None


def _rgb(image: Image.Image, where: str, name: str) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels():
        raise MediaError(
            f"{where}: {width} x {height} pixels, wants at most {max_pixels():.0f} "
            f"(PIL.Image.MAX_IMAGE_PIXELS): {name}"
        )
    if width * height == 0:
        raise MediaError(f"{where}: {width} x {height} pixels, wants at least one: {name}")
    try:
        image.load()
        if image.mode.startswith("I"):
            image = _eight_bits(image, where, name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
        if image.mode != "RGBA":
            return image.convert("RGB")
    except DECODER_ERRORS as error:
        raise MediaError(f"{where}: truncated or damaged image ({error}): {name}") from None
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _eight_bits(image: Image.Image, where: str, name: str) -> Image.Image:
    """Grey levels of 16 bits on the scale of 8: a plain conversion would make all above 255 white."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 0xFFFF:
        raise MediaError(
            f"{where}: grey levels from {levels.min()} to {levels.max()}, wants 8 or 16 bits: {name}"
        )
    return Image.fromarray((levels // 257).astype(np.uint8))


def _from_array(array: np.ndarray, where: str) -> Image.Image:
    colours = array.shape[2:] in ((), (3,)) and array.ndim in (2, 3)
    if array.dtype != np.uint8 or not colours or array.size == 0:
        raise MediaError(
            f"{where}: wants a uint8 array [H, W, 3] or [H, W], "
            f"got {array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]
