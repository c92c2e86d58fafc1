"""What to embed, from the command line: texts, pictures, videos, directories of both, JSON lines,
Parquet.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from umer1.identities import first_twice

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
REMOTE = ("http://", "https://", "data:")


def read_items(
    arguments: Iterable[str],
    *,
    texts: Iterable[str] = (),
    images: Iterable[str] = (),
    videos: Iterable[str] = (),
    instruction: str | None = None,
) -> tuple[list[str], list[dict]]:
    """Ids and items of a command line, in the order: arguments, texts, images, videos.

    An argument is, by this order: "-" (JSON lines from stdin), a .jsonl or .parquet file, a picture
    or video by its ending, a directory (every picture and video in it), else a text. texts, images
    and videos are taken as what they are called; a video may be a directory of frames. instruction
    goes before the text of every item that has none of its own. An id is the `id` of a line or row,
    else the path or the text; ids have to differ.
    """
    pairs = [pair for argument in arguments for pair in _of_argument(argument)]
    pairs += [(text, {"text": text}) for text in texts]
    pairs += [(path, {"image": path}) for path in map(_existing, images)]
    pairs += [(path, {"video": path}) for path in map(_existing, videos)]
    if not pairs:
        raise ValueError(
            "nothing to embed: give texts, pictures, videos or a .jsonl file (see --help)"
        )
    ids = [identity for identity, _ in pairs]
    if (twice := first_twice(ids)) is not None:
        raise ValueError(f"id {twice!r} is there twice; ids have to differ")
    items = [item for _, item in pairs]
    if instruction:
        items = [{"instruction": instruction, **item} for item in items]
    return ids, items


def _of_argument(argument):
    if argument == "-":
        return _json_lines(sys.stdin, "stdin", Path())
    suffix = Path(argument.split("?")[0]).suffix.lower() if "\n" not in argument else ""
    remote = argument.startswith(REMOTE)
    if suffix == ".jsonl" and not remote:
        path = Path(_existing(argument))
        with open(path, encoding="utf-8") as lines:
            return _json_lines(lines, str(path), path.parent)
    if suffix == ".parquet" and not remote:
        from umer1.cli.item_tables import table_items

        return table_items(Path(_existing(argument)), _resolve)
    if suffix in IMAGE_SUFFIXES or argument.startswith("data:image/"):
        return [(argument, {"image": argument if remote else _existing(argument)})]
    if suffix in VIDEO_SUFFIXES:
        return [(argument, {"video": argument if remote else _existing(argument)})]
    if _is_directory(argument):
        return _of_directory(Path(argument))
    return [(argument, {"text": argument})]


def _is_directory(argument):
    try:
        return Path(argument).is_dir()
    except OSError:
        # a text longer than a file name can be
        return False


def _of_directory(directory):
    paths = sorted(directory.rglob("*"))
    kinds = {path: _kind(path) for path in paths if _kind(path)}
    if not kinds:
        raise ValueError(f"{directory}: no pictures or videos below this directory")
    return [(str(path), {kind: str(path)}) for path, kind in kinds.items()]


def _kind(path):
    suffix = path.suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def _existing(path):
    if not path.startswith(REMOTE) and not Path(path).exists():
        raise ValueError(f"{path}: no such file (a text that ends like one goes through --text)")
    return path


def _json_lines(lines, name, directory):
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg})") from None
        if isinstance(item, str):
            item = {"text": item}
        if not isinstance(item, dict):
            raise TypeError(f"{where}: got {type(item).__name__}, need a string or an object")
        identity = item.pop("id", None)
        default = _default_id(item, where)
        parts = {key: _resolve(key, value, directory) for key, value in item.items()}
        pairs.append((default if identity is None else str(identity), parts))
    return pairs


def _default_id(item, where):
    parts = [str(item[key]) for key in ("image", "images", "video", "text") if item.get(key)]
    if not parts:
        raise ValueError(f"{where}: an item needs at least one of text, image, images, video")
    return " ".join(parts)


def _resolve(key, value, directory):
    """Paths in a file are relative to the file."""
    if key in ("image", "images", "video"):
        if isinstance(value, list):
            return [_resolve(key, inner, directory) for inner in value]
        if isinstance(value, str) and not value.startswith(REMOTE):
            return str(directory / value)
    return value
