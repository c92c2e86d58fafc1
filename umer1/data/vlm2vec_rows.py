"""Pairs from the rows of VLM2Vec's training sets, by parser.

Texts lose their media placeholders: as in RL rows, media stand before the text. None of these
pairs has a response; for SFT of the discriminative embedding they get the human turn of SFT
records, which ends at <disc_emb>.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from umer1.data.records import Pair, RecordError, Side
from umer1.prompts import DIALECTS, DISC_TOKEN

VIDEO_QUERY = "Find a video that contains the following visual content: "
VIDEO_TARGET = "Understand the content of the provided video."
QUESTION = "Answer a question based on the content of a video. "

_PLACEHOLDER = re.compile(r"<\|image_\d+\|>|<image>|<video>")
_FRAMES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True, slots=True)
class RowReader:
    """(row, where) -> Pair with one parser; picklable.

    Attributes:
        images: folder of the pictures that rows name; frames: folder of the videos' folders.
        mode: of llavahound_caption: "caption_retrieval" or "video_retrieval".
        human_turns: write texts as the human turns of SFT records.
    """

    parser: str
    source: str
    images: str = ""
    frames: str = ""
    num_frames: int = 8
    mode: str = "caption_retrieval"
    human_turns: bool = False

    def __call__(self, row: dict[str, Any], where: str) -> Pair:
        query, target = PARSERS[self.parser].sides(row, self, where)
        for name, side in (("query", query), ("target", target)):
            if not (side.text or side.images or side.video):
                raise RecordError(f"{where}: its {name} has neither text nor a medium")
            if self.human_turns:
                side.text = human_turn(side)
        return Pair(self.source, query, target)


def human_turn(side: Side) -> str:
    """The SFT wording of a bare side: placeholders, text, <disc_emb>."""
    style = DIALECTS["sft"]
    kinds = ["video"] if side.video else ["image"] * len(side.images)
    media = "".join(f"<{kind}>{style.after_medium}" for kind in kinds)
    return f"{media}{_PLACEHOLDER.sub('', side.text)}{style.before_disc}{DISC_TOKEN}\n"


@dataclass(frozen=True, slots=True)
class Parser:
    sides: Callable[[dict, RowReader, str], tuple[Side, Side]]
    text: list[str]  # columns it reads
    pictures: list[str] = field(default_factory=list)
    folders: tuple[str, ...] = ()  # settings that an entry must have


def _mmeb(row: dict, reader: RowReader, where: str) -> tuple[Side, Side]:
    def side(text: str, path: str) -> Side:
        name = _text(row, path, where)
        images = [os.path.join(reader.images, name)] if name else []
        return Side(_bare(_text(row, text, where)), images=images)

    return side("qry", "qry_image_path"), side("pos_text", "pos_image_path")


def _vidore(row: dict, reader: RowReader, where: str) -> tuple[Side, Side]:
    query = Side(_bare(_text(row, "query", where)), images=[_picture(row, "image", where)])
    return query, Side(_text(row, "answer", where))


def _visrag(row: dict, reader: RowReader, where: str) -> tuple[Side, Side]:
    source, prompts = _text(row, "source", where), _visrag_prompts()
    parts = (prompts["query"].get(source, ""), _text(row, "query", where))
    page = Side(prompts["target"].get(source, ""), images=[_picture(row, "image", where)])
    return Side(" ".join(part for part in parts if part)), page


def _caption(row: dict, reader: RowReader, where: str) -> tuple[Side, Side]:
    (question, caption), video = _turns(row, where), _frames(row, reader, where)
    if reader.mode == "video_retrieval":
        return Side(VIDEO_QUERY + caption), Side(VIDEO_TARGET, video=video)
    return Side(_bare(question), video=video), Side(caption)


def _question(row: dict, reader: RowReader, where: str) -> tuple[Side, Side]:
    (question, answer), video = _turns(row, where), _frames(row, reader, where)
    return Side(QUESTION + _bare(question), video=video), Side(answer)


_VIDEO_FOLDERS = ("dataset_path", "video_frame_basedir")
PARSERS = {
    "mmeb": Parser(
        _mmeb, ["qry", "qry_image_path", "pos_text", "pos_image_path"], folders=("image_dir",)
    ),
    "vidore": Parser(_vidore, ["query", "answer"], ["image"]),
    "visrag": Parser(_visrag, ["query", "source"], ["image"]),
    "llavahound_caption": Parser(_caption, ["video"], folders=_VIDEO_FOLDERS),
    "llavahound_qa": Parser(_question, ["video"], folders=_VIDEO_FOLDERS),
}


def _text(row: dict, key: str, where: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise RecordError(f"{where}: field '{key}' wants a string, got {value!r}")
    return value or ""


def _bare(text: str) -> str:
    return _PLACEHOLDER.sub("", text).strip()


def _picture(row: dict, key: str, where: str) -> str | bytes:
    """A table's picture: its bytes, else the path it names."""
    value = row.get(key)
    found = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
    if not found or not isinstance(found, (bytes, str)):
        raise RecordError(f"{where}: field '{key}' wants a picture (bytes or path), got {value!r}")
    return found


def _turns(row: dict, where: str) -> tuple[str, str]:
    turns = row.get("conversations")
    if not (isinstance(turns, list) and len(turns) >= 2 and all(type(t) is dict for t in turns)):
        raise RecordError(f"{where}: 'conversations' wants a human turn and an answer")
    return tuple(_text(turn, "value", where) for turn in turns[:2])


def _frames(row: dict, reader: RowReader, where: str) -> list[str]:
    """The frames of a video, at most num_frames, evenly spread.

    A folder that is missing or empty stands for itself: opening the video then names it.
    """
    name = _text(row, "video", where)
    if not name:
        raise RecordError(f"{where}: field 'video' wants the name of a folder of frames, got none")
    folder = Path(reader.frames, name)
    try:
        files = [entry.path for entry in os.scandir(folder) if Path(entry.name).suffix in _FRAMES]
    except OSError:
        files = []
    if not files:
        return [str(folder)]
    files.sort(key=lambda path: [int(part) if part.isdigit() else part for part in _cut(path)])
    places = np.linspace(0, len(files) - 1, min(reader.num_frames, len(files)), dtype=int)
    return [files[place] for place in places]


def _cut(path: str) -> list[str]:
    return re.split(r"(\d+)", os.path.basename(path))


@cache
def _visrag_prompts() -> dict[str, dict[str, str]]:
    path = Path(__file__).with_name("visrag_prompts.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
