"""The released training formats: SFT records (JSON or JSONL) and RL rows (YAML + JSON).

A record that does not fit the format is an error that names the file and the record. Nothing is
skipped and nothing is replaced by a neighbour. Media are only named here, never opened.

    pairs = read_sft("train/sft.json", "train")     # a whole file at once, without an index
    pairs = read_rl("train/rl.yaml", "train")
"""

import math
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from umer1.data.scan import RecordError, scan

IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER = "<image>", "<video>"

# "neg" and "pos_id" are ours: hard negatives (a list of sides), and what the target, or a hard
# negative, is called (equal ones are no negatives of each other where a training config says so)
SFT_KEYS = {"dataset_name", "qry", "pos", "neg", "pos_id", "num_tokens"}
SIDE_KEYS = {"conversations", "image", "video", "num_tokens"}
NEGATIVE_KEYS = SIDE_KEYS | {"pos_id"}
RL_KEYS = {
    "dataset", "dataset_name", "solution",
    "qry_text", "qry_image", "qry_video", "pos_text", "pos_image", "pos_video",
}  # fmt: skip


@dataclass(slots=True)
class Side:
    """One half of a pair. At most one of `images` and `video` is filled.

    text      SFT: the human turn as written (placeholders, <disc_emb> and the generation
              instruction included). RL and VLM2Vec: the bare question, without placeholders.
    response  SFT: the assistant turn. RL and VLM2Vec: None.
    images    absolute paths, or the bytes of pictures that a table holds itself.
    video     absolute frame paths, in order.
    target_id hard negatives: the `pos_id` of the records whose target it is.
    """

    text: str
    response: str | None = None
    images: list[str | bytes] = field(default_factory=list)
    video: list[str] | None = None
    target_id: str | None = None


@dataclass(slots=True)
class Pair:
    dataset: str
    query: Side
    target: Side
    negatives: list[Side] = field(default_factory=list)
    target_id: str | None = None


def read_sft(annotation_path: str | Path, data_path: str | Path) -> list[Pair]:
    """Read SFT records; media paths become absolute below `data_path`.

    Raises RecordError naming file, record number (from 0) and field when a record does not fit.
    """
    path, root = Path(annotation_path), os.path.abspath(data_path)
    return [
        sft_pair(row, f"{path}: record {number}", root, path.stem)
        for number, (*_, row) in enumerate(scan(path))
    ]


def read_rl(path: str | Path, image_root: str | Path, seed: int = 0) -> list[Pair]:
    """Read RL rows from a JSON/JSONL file, or from a YAML file that lists such files (`rl_files`).

    `seed` drives random sampling.
    """
    root = os.path.abspath(image_root)
    pairs = []
    for file, strategy, where in rl_files(Path(path)):
        rows = [row for *_, row in scan(file)]
        pairs += [
            rl_pair(rows[number], f"{file}: record {number}", root, file.stem)
            for number in take(range(len(rows)), strategy, seed, where)
        ]
    return pairs


def rl_files(path: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, sampling strategy, where it is said) of an RL data set.

    A YAML file says `datasets: - {json_path: ..., sampling_strategy: first:100}`; strategies are
    those of `take`, `all` by default. A relative json_path starts at the YAML file's directory.
    """
    if path.suffix not in (".yaml", ".yml"):
        yield path, "all", str(path)
        return
    if not path.is_file():
        raise RecordError(f"{path}: no such file")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("datasets"), list):
        raise RecordError(f"{path}: wants a mapping with a list 'datasets', each with 'json_path'")
    for number, entry in enumerate(config["datasets"]):
        where = f"{path}: datasets[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
            raise RecordError(f"{where}: wants a mapping with 'json_path', got {entry!r}")
        _reject_unknown(entry, {"json_path", "sampling_strategy"}, where)
        yield path.parent / entry["json_path"], entry.get("sampling_strategy", "all"), where


def take(
    rows: Sequence, strategy: str, seed: int = 0, where: str = "sampling_strategy"
) -> Sequence:
    """Apply a sampling strategy to rows or to their numbers.

    `all`; `first:`, `end:` and `random:` with a count or a percentage, which is rounded up; a bare
    percentage means `random:`.
    """
    match = re.fullmatch(r"(?:(all)|(?:(first|end|random):)?(\d+)(%?))", str(strategy))
    if match is None or (not match[1] and not match[2] and not match[4]):
        raise RecordError(
            f"{where}: unknown strategy {strategy!r}; "
            "wants all, first:N, end:N or random:N, where N is a count or a percentage such as 20%"
        )
    if match[1]:
        return rows
    count = math.ceil(int(match[3]) * len(rows) / 100) if match[4] else int(match[3])
    if count > len(rows):
        raise RecordError(f"{where}: {strategy!r} asks for {count} of {len(rows)} rows")
    if match[2] == "first":
        return rows[:count]
    if match[2] == "end":
        return rows[len(rows) - count :]
    return random.Random(seed).sample(rows, count)


def missing_media(pairs: Iterable[Pair]) -> list[str]:
    """Media files that the pairs name and that do not exist, sorted; each is looked up once."""
    sides = (side for pair in pairs for side in (pair.query, pair.target))
    named = {path for side in sides for path in media_paths(side)}
    return sorted(path for path in named if not os.path.isfile(path))


def media_paths(side: Side) -> list[str]:
    """Files that a side names."""
    return [path for path in [*side.images, *(side.video or [])] if isinstance(path, str)]


def sft_pair(row: dict, where: str, root: str, default_name: str) -> Pair:
    """An SFT record; RecordError begins with `where`."""
    _reject_unknown(row, SFT_KEYS, where)
    sides = []
    for key in ("qry", "pos"):
        if not isinstance(row.get(key), dict):
            raise RecordError(f"{where}: field '{key}' wants an object, got {row.get(key)!r}")
        sides.append(_sft_side(row[key], root, f"{where}, {key}"))
    negatives, target_id = row.get("neg", []), row.get("pos_id")
    if not _list_of(negatives, dict):
        raise RecordError(f"{where}: field 'neg' wants a list of objects, got {negatives!r}")
    return Pair(
        _string(row.get("dataset_name", ""), "dataset_name", where) or default_name,
        *sides,
        [
            _sft_side(side, root, f"{where}, neg[{place}]", NEGATIVE_KEYS)
            for place, side in enumerate(negatives)
        ],
        None if target_id is None else _string(target_id, "pos_id", where),
    )


def _sft_side(side: dict, root: str, where: str, known: set[str] = SIDE_KEYS) -> Side:
    _reject_unknown(side, known, where)
    turns = side.get("conversations")
    speakers = [turn.get("from") for turn in turns] if _list_of(turns, dict) else None
    if speakers != ["human", "gpt"]:
        raise RecordError(f"{where}: 'conversations' wants one human turn and one gpt turn")
    text, response = (_string(turn.get("value"), "conversations", where) for turn in turns)
    image, video = side.get("image"), side.get("video")
    images = [image] if isinstance(image, str) else image
    _check_media(images, video, "image", "video", where)
    counts = ((IMAGE_PLACEHOLDER, len(images or [])), (VIDEO_PLACEHOLDER, int(bool(video))))
    for placeholder, given in counts:
        found = text.count(placeholder)
        if found != given:
            raise RecordError(
                f"{where}: {found} {placeholder} placeholders in the text but {given} media given"
            )
    frames, target_id = _join(root, video) if video else None, side.get("pos_id")
    if target_id is not None:
        _string(target_id, "pos_id", where)
    return Side(text, response, _join(root, images or []), frames, target_id)


def rl_pair(row: dict, where: str, root: str, default_name: str) -> Pair:
    """An RL row; RecordError begins with `where`."""
    _reject_unknown(row, RL_KEYS, where)
    sides = []
    for prefix in ("qry", "pos"):
        image, video = row.get(f"{prefix}_image") or None, row.get(f"{prefix}_video") or None
        if video == [""]:
            video = None
        if image is not None and not isinstance(image, str):
            raise RecordError(f"{where}: '{prefix}_image' wants one path or \"\", got {image!r}")
        images = [image] if image else None
        _check_media(images, video, f"{prefix}_image", f"{prefix}_video", where)
        text = _string(row.get(f"{prefix}_text"), f"{prefix}_text", where)
        frames = _join(root, video) if video else None
        sides.append(Side(text, None, _join(root, images or []), frames))
    name = row.get("dataset_name") or row.get("dataset") or default_name
    return Pair(_string(name, "dataset_name", where), *sides)


def _check_media(images, video, image_key: str, video_key: str, where: str) -> None:
    if images is not None and not (_list_of(images, str) and all(images)):
        raise RecordError(f"{where}: '{image_key}' wants a path or a list of paths, got {images!r}")
    if video is not None and not (_list_of(video, str) and all(video)):
        raise RecordError(f"{where}: '{video_key}' wants a list of frame paths, got {video!r}")
    if images and video:
        raise RecordError(f"{where}: has both '{image_key}' and '{video_key}'; only one is allowed")


def _reject_unknown(mapping: dict, known: set[str], where: str) -> None:
    unknown = sorted(set(mapping) - known)
    if unknown:
        raise RecordError(f"{where}: unknown keys {unknown}; known keys are {sorted(known)}")


def _string(value, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{where}: field '{key}' wants a string, got {value!r}")
    return value


def _list_of(value, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _join(root: str, paths: list[str]) -> list[str]:
    return [os.path.join(root, path) for path in paths]
