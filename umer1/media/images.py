"""One image, from any source, as RGB."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from umer1.media.sources import IMAGE_BYTES, MediaError, local_path, read_uri, shorten

MAX_PIXELS = (
    1 << 28
)  # of one image, decoded: 0.8 GB as RGB; a larger one is taken for a decompression bomb


def load_image(source: Any, where: str = "image") -> Image.Image:
    """`source` as a decoded RGB image. Transparent pixels of RGBA images become white, as in qwen-vl-utils.

    Raises MediaError for whatever is missing, unreadable, cut short or too large.
    """
    if isinstance(source, Image.Image):
        return _rgb(source, where, "the PIL image")
    if isinstance(source, np.ndarray):
        return _from_array(source, where)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(source), where, f"{len(source)} bytes")
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(
            f"{where}: wants a path, URI, bytes, PIL image or uint8 array, got {type(source).__name__}"
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


def _open(file: Any, where: str, name: str) -> Image.Image:
    try:
        with Image.open(file, formats=_formats()) as image:
            return _rgb(image, where, name)
    except UnidentifiedImageError:
        raise MediaError(f"{where}: not an image: {name}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(f"{where}: more than {MAX_PIXELS} pixels: {name}") from None


def _rgb(image: Image.Image, where: str, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise MediaError(f"{where}: {width} x {height} pixels, wants at most {MAX_PIXELS}: {name}")
    if width * height == 0:
        raise MediaError(f"{where}: {width} x {height} pixels, wants at least one: {name}")
    try:
        image.load()
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, …
        raise MediaError(f"{where}: truncated or damaged image ({error}): {name}") from None
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _from_array(array: np.ndarray, where: str) -> Image.Image:
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise MediaError(
            f"{where}: wants a uint8 array [H, W, 3] or [H, W], got {array.dtype} {list(array.shape)}"
        )
    if array.size == 0:
        raise MediaError(f"{where}: wants at least one pixel, got an array {list(array.shape)}")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _formats() -> list[str]:
    """Raster formats that Pillow decodes by itself; EPS, for one, would start Ghostscript."""
    Image.preinit()
    return [
        name
        for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
        if name in Image.OPEN
    ]
