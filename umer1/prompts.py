"""The prompts of UME-R1, byte for byte, and the shape of the answers to them.

    item = parse_item({"text": "a red bicycle", "image": "bicycle.jpg"})
    pieces = render_prompt(item, mode="gen")        # text and media in order, as ChatML

The strings are data of the released models; a changed space changes every vector. Sources:
`eval_collator.py`, `data_qwen.py`, `qwen_module.py` and the README of
https://github.com/XMUDeepLIT/UME-R1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GEN_TOKEN = "<gen_emb>"
DISC_TOKEN = "<disc_emb>"
SYSTEM_MESSAGE = "You are a helpful assistant."

# evaluation, SFT records and RL
GENERATION_INSTRUCTION = (
    "Represent the above input text, images, videos, or any combination of the three as "
    "embeddings. First output the thinking process in <think> </think> tags and then summarize "
    "the entire input in a word or sentence. Finally, use the <gen_emb> tag to represent the "
    "entire input."
)
# the README's example breaks the line after the first two sentences, and keeps their spaces
README_INSTRUCTION = GENERATION_INSTRUCTION.replace(". F", ". \nF")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one part of the release writes the user turn: media, text, `before_disc`, `<disc_emb>`,
    newline, instruction."""

    instruction: str = GENERATION_INSTRUCTION
    before_disc: str = "\n"
    after_medium: str = ""
    strip: bool = False  # strips the text, and with media also drops placeholders from it


DIALECTS = {
    "evaluation": Dialect(strip=True),
    "sft": Dialect(after_medium="\n"),
    "rl": Dialect(before_disc=" \n"),
    "readme": Dialect(instruction=README_INSTRUCTION),
}
MODES = ("gen", "disc", "plain")
# placeholders that VLM2Vec's loaders leave in the text of inputs with media
_PLACEHOLDER = re.compile(r"<\|image_pad\|>|<\|video_pad\|>|<\|image_\d+\|>")


@dataclass(frozen=True, slots=True)
class Medium:
    """One image or video. What `source` may be: see `umer1.media`.

    The settings are those of Qwen messages and hold for this medium alone: pixels per image or per
    frame, `total_pixels` over all frames. `where` names the medium in error messages.
    """

    kind: str
    source: Any
    where: str = field(default="", compare=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    num_frames: int | None = None
    fps: float | None = None

    def __post_init__(self):
        if self.kind not in ("image", "video"):
            raise ValueError(
                f"{self.where or 'medium'}: kind wants 'image' or 'video', got {self.kind!r}"
            )


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to embed: text and media. All media stand before the text unless `layout` gives
    another order."""

    text: str = ""
    media: tuple[Medium, ...] = ()
    layout: tuple[str | Medium, ...] = ()


class Template(str):
    """Text of ours: control tokens in it (`<|im_start|>` and so on) count. In a plain `str`, which
    comes from users and data, they are letters."""

    __slots__ = ()


def render_prompt(
    item: Item, *, mode: str = "gen", dialect: str = "evaluation"
) -> list[str | Medium]:
    """The ChatML prompt in pieces: `Template` is our text, `str` the item's, and its media.

    mode "gen" asks for reasoning and a summary and opens the assistant's turn; "disc" ends at
    `<disc_emb>` and its newline; "plain" has neither token, only the user turn and the opened
    assistant's turn.
    """
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, wants one of {', '.join(map(repr, MODES))}")
    if dialect not in DIALECTS:
        raise ValueError(f"dialect: got {dialect!r}, wants one of {', '.join(map(repr, DIALECTS))}")
    style = DIALECTS[dialect]
    pieces: list[str | Medium] = [prompt_head()]
    pieces += item.layout or _media_first(item, style)
    pieces.append(prompt_tail(mode, style))
    return pieces


def prompt_head() -> Template:
    """The default system turn and the opening of the user's."""
    return Template(f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n")


def prompt_tail(mode: str, style: Dialect) -> Template:
    """What follows the item's own text."""
    if mode == "disc":
        return Template(f"{style.before_disc}{DISC_TOKEN}\n")
    ask = f"{style.before_disc}{DISC_TOKEN}\n{style.instruction}" if mode == "gen" else ""
    return Template(f"{ask}<|im_end|>\n<|im_start|>assistant\n")


def _media_first(item: Item, style: Dialect) -> list[str | Medium]:
    pieces: list[str | Medium] = []
    for medium in item.media:
        pieces.append(medium)
        if style.after_medium:
            pieces.append(Template(style.after_medium))
    text = item.text
    if style.strip:
        text = (_PLACEHOLDER.sub("", text) if item.media else text).strip()
    return [*pieces, text]


# What users pass in.

ITEM_KEYS = ("text", "image", "images", "video", "instruction")


def parse_item(obj: Any, where: str = "item 0") -> Item:
    """An `Item` from a string, a PIL image, a dict with any of `ITEM_KEYS`, or a list of Qwen chat
    messages.

    `instruction` goes before the text, with one space. A dict holds images or a video, not both;
    messages may mix them, in the order given. Media are named here and opened later.

    Raises ValueError or TypeError that starts with `where` and names the field.
    """
    from PIL import Image

    if isinstance(obj, Item):
        return obj
    if isinstance(obj, str):
        item = Item(obj)
    elif isinstance(obj, Image.Image):
        item = Item(media=(Medium("image", obj, where),))
    elif isinstance(obj, Mapping) and "role" not in obj:
        item = _from_dict(obj, where)
    elif isinstance(obj, Mapping) or (
        isinstance(obj, (list, tuple)) and obj and all(isinstance(turn, Mapping) for turn in obj)
    ):
        from umer1.messages import item_from_messages

        item = item_from_messages([obj] if isinstance(obj, Mapping) else obj, where)
    else:
        raise TypeError(
            f"{where}: wants a string, a PIL image, a dict with any of {', '.join(ITEM_KEYS)}, "
            f"or a list of chat messages, got {type(obj).__name__}"
        )
    check_text(item.text, f"{where}, field 'text'")
    if not item.media and not item.text.strip():
        raise ValueError(f"{where}: is empty, wants text, an image or a video")
    return item


def check_text(text: str, where: str) -> None:
    """Raises ValueError if `text` has lone surrogates, as JSON escapes can make them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: not valid Unicode: {error}") from None


def _from_dict(obj: Mapping, where: str) -> Item:
    unknown = [key for key in obj if key not in ITEM_KEYS]
    if unknown:
        raise ValueError(
            f"{where}: unknown key {unknown[0]!r}, wants any of {', '.join(ITEM_KEYS)}"
        )
    given = {key: value for key, value in obj.items() if value is not None}
    for key in ("text", "instruction"):
        if not isinstance(given.get(key, ""), str):
            raise TypeError(
                f"{where}, field {key!r}: wants a string, got {type(given[key]).__name__}"
            )
    if sum(key in given for key in ("image", "images", "video")) > 1:
        both = " and ".join(repr(key) for key in ("image", "images", "video") if key in given)
        raise ValueError(
            f"{where}: has {both}, wants only one of them (chat messages may mix images and videos)"
        )
    text = " ".join(part for part in (given.get("instruction", ""), given.get("text", "")) if part)
    return Item(text, _media(given, where))


def _media(given: Mapping, where: str) -> tuple[Medium, ...]:
    if "image" in given:
        if isinstance(given["image"], (list, tuple)):
            raise TypeError(
                f"{where}, field 'image': wants one image, got a list; several go under 'images'"
            )
        return (Medium("image", given["image"], f"{where}, field 'image'"),)
    if "video" in given:
        return (Medium("video", given["video"], f"{where}, field 'video'"),)
    images = given.get("images", ())
    if not isinstance(images, (list, tuple)):
        raise TypeError(
            f"{where}, field 'images': wants a list of images, got {type(images).__name__}"
        )
    return tuple(
        Medium("image", image, f"{where}, field 'images[{place}]'")
        for place, image in enumerate(images)
    )


# The answer: <think>reasoning</think><answer>summary\n<gen_emb>; <answer> is never closed.

_TURN_END = re.compile(r"<\|im_end\|>|<\|endoftext\|>")


def format_ok(text: str) -> bool:
    """The format reward: is `<think>.*?</think>.*?\\s*<answer>.*?\\s*<gen_emb>` found (DOTALL)?

    Walking from tag to tag finds exactly what that expression finds, in linear time; the expression
    itself is far slower than linear on some texts.
    """
    place = 0
    for tag in ("<think>", "</think>", "<answer>", GEN_TOKEN):
        place = text.find(tag, place)
        if place < 0:
            return False
        place += len(tag)
    return True


def parse_response(text: str) -> tuple[str, str]:
    """(reasoning, summary) of a generated text, stripped; what is missing is "".

    Lenient: no tag is required, a closing `</answer>` is dropped, nothing after the end of the turn
    counts. Text without any tag is summary; text cut off inside `<think>` is reasoning.
    """
    text = _TURN_END.split(text, maxsplit=1)[0]
    if "</think>" in text:
        reasoning, _, summary = text.partition("</think>")
    elif "<think>" in text:
        reasoning, _, summary = text.partition("<answer>")
        reasoning = reasoning.rstrip().removesuffix(GEN_TOKEN)
    else:
        reasoning, summary = "", text
    reasoning = reasoning.rpartition("<think>")[2]
    summary = summary.rpartition("<answer>")[2].partition(GEN_TOKEN)[0].partition("</answer>")[0]
    return reasoning.strip(), summary.strip()
