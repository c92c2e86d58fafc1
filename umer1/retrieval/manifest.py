"""index.json: what an index is, and how much of its files counts.

The manifest is the only file that is ever replaced. All others only grow, and what stands behind
the lengths given here was never acknowledged: it is not read, and the next write cuts it off.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from umer1.parts import replacing

NAME, FORMAT, VERSION = "index.json", "umer1-index", 2
MODES = ("disc", "gen")
READOUTS = ("at", "after")
KINDS = ("auto", "flat", "ivfpq", "hnsw")
DTYPES = ("float32", "float16", "int8")
# the longest manifest has two structures and an instruction: more is no manifest
MOST_BYTES = 1 << 20
# of a vector
MOST_NUMBERS = 1 << 16
_FOLDER = re.compile(r"data-\d{6}")
_STRUCTURE = re.compile(r"(hnsw|ivfpq)-(disc|gen|fused)-\d{6,}\.numbers")


@dataclass(frozen=True, slots=True)
class Structure:
    """A file that finds candidates among the first `rows` rows of one space; its CRC-32."""

    kind: str
    file: str
    rows: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the files of an index mean.

    model: identity of what made the vectors. dimension: of the stored vectors; cut_from: the
    model's own, where vectors are cut short. instruction: stood before the text of every item.
    aligned: gen items may be searched with disc queries. folder: where the data lies. rows: stored,
    deleted ones included. item_bytes: of items.jsonl. deleted: rows named in the file of deletions.
    commit: counts the changes.
    """

    model: str
    dimension: int
    modes: tuple[str, ...]
    readout: str = "at"
    aligned: bool = False
    kind: str = "auto"
    dtype: str = "float32"
    instruction: str | None = None
    cut_from: int | None = None
    folder: str = "data-000001"
    rows: int = 0
    item_bytes: int = 0
    deleted: int = 0
    commit: int = 0
    structures: dict[str, Structure] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model: got {self.model!r}, wants the model's identity")
        if not isinstance(self.modes, tuple) or not self.modes:
            raise ValueError(f"modes: got {self.modes!r}, wants one or both of disc, gen")
        for mode in self.modes:
            _check_choice("modes", mode, MODES)
        if len(set(self.modes)) != len(self.modes):
            raise ValueError(f"modes: got {self.modes}, wants distinct ones")
        _check_choice("readout", self.readout, READOUTS)
        _check_choice("kind", self.kind, KINDS)
        _check_choice("dtype", self.dtype, DTYPES)
        if not isinstance(self.aligned, bool):
            raise ValueError(f"aligned: got {self.aligned!r}, wants true or false")
        if self.instruction is not None and not isinstance(self.instruction, str):
            raise ValueError(f"instruction: got {self.instruction!r}, wants a text or nothing")
        _check_count("dimension", self.dimension, least=1, most=MOST_NUMBERS)
        if self.cut_from is not None:
            _check_count("cut_from", self.cut_from, least=self.dimension, most=MOST_NUMBERS)
        for name in ("rows", "item_bytes", "deleted", "commit"):
            _check_count(name, getattr(self, name))
        if not isinstance(self.folder, str) or not _FOLDER.fullmatch(self.folder):
            raise ValueError(f"folder: got {self.folder!r}, wants data- and six digits")
        for space, structure in self.structures.items():
            _check_structure(space, structure, self)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of an index; ValueError says what is wrong with it."""
        path = directory / NAME
        try:
            with open(path, "rb") as file:
                content = file.read(MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{directory}: no index here ({NAME} is missing)") from None
        if len(content) > MOST_BYTES:
            raise ValueError(f"{path}: longer than {MOST_BYTES} bytes, this is no index")
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        return _from_json(values, path)

    def write(self, directory: Path) -> None:
        """Put this manifest in the place of the one before; on the disk when this returns."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        with replacing(directory / NAME) as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def _from_json(values, path):
    if not isinstance(values, dict) or values.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path}: not the manifest of an index")
    if values.get("version") != VERSION:
        raise ValueError(
            f"{path}: index version {values.get('version')!r}, this program reads {VERSION}"
        )
    names = [item.name for item in fields(Manifest)]
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{path}: has no {missing[0]!r}")
    given = {name: values[name] for name in names}
    try:
        given["modes"] = tuple(given["modes"])
        given["structures"] = {
            space: Structure(**structure) for space, structure in given["structures"].items()
        }
        return Manifest(**given)
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check_choice(name, value, known):
    if value not in known:
        raise ValueError(f"{name}: got {value!r}, wants one of {', '.join(known)}")


def _check_count(name, value, least=0, most=1 << 48):
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: got {value!r}, wants a whole number from {least} to {most}")


def _check_structure(space, structure, manifest):
    if not set(("disc", "gen") if space == "fused" else (space,)) <= set(manifest.modes):
        raise ValueError(f"structures: got {space!r}, the index holds {manifest.modes}")
    _check_choice("structures", structure.kind, ("hnsw", "ivfpq"))
    if not isinstance(structure.file, str) or not _STRUCTURE.fullmatch(structure.file):
        raise ValueError(f"structures: got the file {structure.file!r}")
    _check_count("structures", structure.rows, least=1)
    _check_count("structures", structure.checksum)
    if structure.rows > manifest.rows:
        raise ValueError(f"structures: cover {structure.rows} of {manifest.rows} rows")
