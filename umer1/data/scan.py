"""One pass over a JSON list or JSON lines of any size, in bounded memory.

    for offset, length, row in scan("UME-R1-SFT.json"): ...

A window of the file is decoded at a time and each record is taken from it by `raw_decode`, so
braces, quotes and escapes inside strings, white space and Unicode are JSON's own affair. The file
is read, not mapped: mapped pages would count as this process's memory.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

WINDOW = 4 << 20  # bytes read at a time
LONGEST = 64 << 20  # characters of one record; more means that its end is missing

_SPACE = re.compile(r"[ \t\r\n]*")
# an error this close to the window's end, or in a string that is still open, may only mean
# that the record goes on behind it
_MARGIN = 32
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class RecordError(ValueError):
    """A file or a record that does not fit the format; the message names file, record and field."""


def scan(path: str | Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(offset, length, record) of every record; offset and length in bytes.

    A file whose first character is `[` is a JSON list, any other one record per line (blank lines
    do not count).

    Raises RecordError naming the file and the byte where it is cut short or not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = len(_BYTE_ORDER_MARK) if file.read(3) == _BYTE_ORDER_MARK else 0
        start = _first_byte(file, start)
        file.seek(start)
        first = file.read(1)
        if first == b"[":
            yield from _List(file, path, start + 1).records()
        elif first:
            file.seek(start)
            yield from _lines(file, path, start)


def parse(content: bytes, path: Path, offset: int) -> dict[str, Any]:
    """A record's own bytes, found by an earlier scan."""
    try:
        row = json.loads(content)
    except ValueError as error:
        raise RecordError(
            f"{path}: byte {offset}: not the record that was indexed here; did the file change? "
            f"({error})"
        ) from None
    if not isinstance(row, dict):
        raise RecordError(f"{path}: byte {offset}: not a record; did the file change?")
    return row


def _first_byte(file: BinaryIO, start: int) -> int:
    """Where the first byte stands that is no white space."""
    file.seek(start)
    while block := file.read(1 << 16):
        rest = block.lstrip(b" \t\r\n")
        if rest:
            return start + len(block) - len(rest)
        start += len(block)
    return start


def _lines(file: BinaryIO, path: Path, offset: int) -> Iterator[tuple[int, int, dict]]:
    file.seek(0)
    number = file.read(offset).count(b"\n")
    record = 0
    # a line without end is a list without brackets or no JSON at all
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise RecordError(f"{path}: line {number} is longer than {LONGEST >> 20} MiB")
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RecordError(
                    f"{path}: line {number} is not valid JSON: {error} (byte {offset})"
                ) from None
            yield offset, len(line.rstrip()), _object(row, path, record, offset)
            record += 1
        offset += len(line)


class _List:
    """Records of a JSON list whose `[` stands right before byte `offset`."""

    def __init__(self, file: BinaryIO, path: Path, offset: int):
        self.file, self.path = file, path
        self.text, self.place = "", 0  # the window, and how far it is used up
        self.offset = offset  # byte of text[place]
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._read_bytes = offset
        self.count = 0

    def records(self) -> Iterator[tuple[int, int, dict]]:
        decode = json.JSONDecoder().raw_decode
        while (mark := self._next_mark()) != "]":
            if self.count and mark == ",":
                self._use(self.place + 1)
                mark = self._next_mark()
            elif self.count and mark:
                raise self._error(f"wants ',' or ']' after a record, got {mark!r}")
            if not mark:
                raise self._error("the file ends inside the list; is it cut short?")
            row, end = self._decode(decode, mark)
            offset = self.offset
            self._use(end)
            yield offset, self.offset - offset, _object(row, self.path, self.count, offset)
            self.count += 1
        self._use(self.place + 1)
        if rest := self._next_mark():
            raise self._error(f"wants nothing after the list, got {rest!r}")

    def _decode(self, decode, mark: str) -> tuple[Any, int]:
        while True:
            try:
                row, end = decode(self.text, self.place)
                # a number at the window's end may go on
                if mark == "{" or end < len(self.text) or self.ended:
                    return row, end
            except json.JSONDecodeError as error:
                near = error.pos >= len(self.text) - _MARGIN or "Unterminated" in error.msg
                if self.ended or not near:
                    at = self.offset + len(self.text[self.place : error.pos].encode())
                    open_end = error.pos >= len(self.text) or "Unterminated" in error.msg
                    hint = "; is the file cut short?" if open_end else ""
                    raise self._error(f"not valid JSON: {error.msg} at byte {at}{hint}") from None
                if len(self.text) - self.place > LONGEST:
                    raise self._error(
                        f"not valid JSON: no end within {LONGEST >> 20} MiB ({error.msg})"
                    ) from None
            except (ValueError, RecursionError) as error:
                raise self._error(f"not valid JSON: {error}") from None
            self._extend()

    def _next_mark(self) -> str:
        """The next character that is no white space, "" at the end of the file."""
        while True:
            place = _SPACE.match(self.text, self.place).end()
            self._use(place)
            if place < len(self.text):
                return self.text[place]
            if self.ended:
                return ""
            self._extend()

    def _use(self, place: int) -> None:
        """Move on to text[place]."""
        if self.text.isascii():
            self.offset += place - self.place
        else:
            self.offset += len(self.text[self.place : place].encode())
        self.place = place

    def _extend(self) -> None:
        """Drop what is used up and read on; a long record doubles the window, not creeps."""
        rest = self.text[self.place :]
        block = self.file.read(max(WINDOW, len(rest)))
        self.ended = not block
        try:
            more = self._decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            raise self._error(
                f"not UTF-8 after byte {self._read_bytes + error.start} ({error.reason})"
            ) from None
        self._read_bytes += len(block)
        self.text, self.place = rest + more, 0

    def _error(self, reason: str) -> RecordError:
        return RecordError(
            f"{self.path}: record {self.count}: {reason} (byte {self.offset} of the file)"
        )


def _object(row: Any, path: Path, record: int, offset: int) -> dict:
    if not isinstance(row, dict):
        raise RecordError(
            f"{path}: record {record}: wants an object, got {type(row).__name__} (byte {offset})"
        )
    return row
