"""Drawing: handwritten digit cells, photo crops, text pages and receipts.

Every size is a multiple of 28 pixels, the area of one merged visual token of Qwen2-VL, and a digit
always fills exactly one 28x28 cell.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from umer1.data.mini.sources import Digit, package_file

CELL = 28
PAGE_SIZE = (4 * CELL, 5 * CELL)  # width, height


@dataclass(frozen=True, slots=True)
class Style:
    paper: tuple[int, int, int]
    ink: tuple[int, int, int]


def draw_style(rng: np.random.Generator) -> Style:
    """White paper, dark ink, both slightly tinted. Stronger tints cost a small model thousands of
    steps: the paper's colour is most of a patch, and the stroke is what has to be read."""
    paper = int(rng.integers(243, 252)) + rng.integers(0, 4, 3)
    ink = int(rng.integers(0, 30)) + rng.integers(0, 12, 3)
    return Style(tuple(paper.tolist()), tuple(ink.tolist()))


def draw_cells(digits: list[Digit | None], rng: np.random.Generator, style: Style) -> Image.Image:
    """A row of handwritten digits, one per cell; None leaves a blank cell. RGB, 28 x 28n."""
    mask = Image.new("L", (CELL * len(digits), CELL), 0)
    for column, digit in enumerate(digits):
        if digit is not None:
            mask.paste(_digit_mask(digit, rng), (CELL * column, 0))
    return _ink(mask, style)


def draw_page(title: str, lines: tuple[str, ...], style: Style) -> Image.Image:
    """A page with a large running title and small text below. RGB, 112 x 140."""
    mask = _body(lines).copy()
    _write_title(ImageDraw.Draw(mask), title, 22)
    return _ink(mask, style)


def draw_receipt(
    title: str, lines: list[tuple[str, list[Digit]]], rng: np.random.Generator, style: Style
) -> Image.Image:
    """A receipt: title, then up to four lines: a printed label, handwritten digits on the right."""
    mask = Image.new("L", PAGE_SIZE, 0)
    canvas = ImageDraw.Draw(mask)
    _write_title(canvas, title, 20)
    for row, (label, digits) in enumerate(lines, start=1):
        middle = CELL * row + CELL // 2
        canvas.text((4, middle), label, fill=230, font=_font("DejaVuSans.ttf", 12), anchor="lm")
        for column, digit in enumerate(digits):
            left = PAGE_SIZE[0] - CELL * (len(digits) - column)
            mask.paste(_digit_mask(digit, rng), (left, CELL * row))
    return _ink(mask, style)


def resize_to_cells(image: Image.Image, longest: int) -> Image.Image:
    """Scale so that the longer side is `longest` and both sides are multiples of 28."""
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale / CELL)) * CELL for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


@dataclass(frozen=True, slots=True)
class Recolouring:
    """One change of colours, applied alike to both sides of a pair so that they still match."""

    channels: tuple[int, int, int]  # where red, green and blue come from
    tables: tuple[list[int], ...]  # 256 new values for each
    mirror: bool

    def __call__(self, image: Image.Image) -> Image.Image:
        bands = image.split()
        bands = [
            bands[channel].point(table)
            for channel, table in zip(self.channels, self.tables, strict=True)
        ]
        recoloured = Image.merge("RGB", bands)
        return ImageOps.mirror(recoloured) if self.mirror else recoloured


UNCHANGED = Recolouring((0, 1, 2), (list(range(256)),) * 3, False)


def draw_recolouring(rng: np.random.Generator) -> Recolouring:
    """Mostly new colours, one time in four none, so that natural pictures are seen as well."""
    if rng.random() < 0.25:
        return UNCHANGED
    values = 255 * (np.arange(256) / 255) ** rng.uniform(0.65, 1.5)
    tables = np.rint(values * rng.uniform(0.55, 1.2, (3, 1))).clip(0, 255).astype(np.int64)
    channels = tuple(rng.permutation(3).tolist())
    return Recolouring(channels, tuple(tables.tolist()), bool(rng.random() < 0.5))


def _digit_mask(digit: Digit, rng: np.random.Generator) -> Image.Image:
    """The digit on one cell, enlarged, turned and shifted a little. L, 28 x 28, 255 = ink."""
    side = int(rng.integers(21, 27))
    small = Image.fromarray((digit.pixels * 255).astype(np.uint8))
    large = small.resize((side, side), Image.Resampling.BICUBIC)
    large = large.rotate(float(rng.uniform(-9, 9)), Image.Resampling.BILINEAR)
    cell = Image.new("L", (CELL, CELL), 0)
    left, top = rng.integers(0, CELL - side + 1, 2).tolist()
    cell.paste(large, (left, top))
    return cell


def _write_title(canvas: ImageDraw.ImageDraw, title: str, largest: int) -> None:
    middle = (PAGE_SIZE[0] // 2, CELL // 2)
    canvas.text(middle, title, fill=255, font=_fitting(title, largest), anchor="mm")


@lru_cache(maxsize=1024)
def _body(lines: tuple[str, ...]) -> Image.Image:
    mask = Image.new("L", PAGE_SIZE, 0)
    canvas = ImageDraw.Draw(mask)
    for row, line in enumerate(lines):
        canvas.text((3, CELL + 2 + 8 * row), line, fill=220, font=_font("DejaVuSans.ttf", 7))
    return mask


def _ink(mask: Image.Image, style: Style) -> Image.Image:
    paper, ink = Image.new("RGB", mask.size, style.paper), Image.new("RGB", mask.size, style.ink)
    return Image.composite(ink, paper, mask)


@lru_cache
def _fitting(text: str, largest: int) -> ImageFont.FreeTypeFont:
    """The largest bold font in which the text is at most 106 pixels wide."""
    for size in range(largest, 6, -1):
        font = _font("DejaVuSans-Bold.ttf", size)
        if font.getlength(text) <= PAGE_SIZE[0] - 6:
            return font
    raise ValueError(f"title {text!r} does not fit on a page")


@lru_cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(package_file("matplotlib", f"mpl-data/fonts/ttf/{name}")), size)
