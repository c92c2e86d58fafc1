"""Answers on disk as they come: one line each, appended at once, so that a kill loses none.

    with AnswerJournal(folder, settings) as journal:
        key in journal; journal.add(key, reply); journal.reply(key)

The folder holds run.json (what is asked, and how) and answers.jsonl. Answers are raw: filters read
them afterwards and may be changed without asking anything again.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from umer1.data.annotation.reply import Reply
from umer1.data.cache import write_whole

RUN, ANSWERS = "run.json", "answers.jsonl"


class AnswerJournal:
    """Answers by key, a whole number below 2**64. Only their places are held in memory."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        """Start a run or go on with it.

        Raises ValueError: another process works on it, it was asked with other settings, or the
        folder holds other things.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / ".lock", "w")  # noqa: SIM115
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"output: {folder}: another process works on it") from None
            self._check_settings(settings)
            self._file = os.open(folder / ANSWERS, os.O_RDWR | os.O_CREAT, 0o644)
        except BaseException:
            self._lock.close()
            raise
        self._places: dict[int, tuple[int, int]] = {}  # key -> offset and length of its line
        self.prompt_tokens = self.completion_tokens = self.without_usage = 0
        self._end = self._read_all()

    def __enter__(self) -> AnswerJournal:
        return self

    def __exit__(self, *error) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._lock.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: int) -> bool:
        return key in self._places

    def add(self, key: int, reply: Reply, **about: Any) -> None:
        """Write an answer; it outlives this process from here on."""
        row = {"key": f"{key:016x}", **reply.to_json(), **about}
        line = json.dumps(row).encode() + b"\n"
        written = 0
        while written < len(line):
            written += os.pwrite(self._file, line[written:], self._end + written)
        self._count(key, reply, len(line))

    def reply(self, key: int) -> Reply:
        offset, length = self._places[key]
        return Reply.from_json(json.loads(os.pread(self._file, length, offset)))

    def _count(self, key: int, reply: Reply, length: int) -> None:
        self._places[key] = self._end, length
        self._end += length
        if reply.usage:
            self.prompt_tokens += reply.usage.prompt
            self.completion_tokens += reply.usage.completion
        else:
            self.without_usage += 1

    def _read_all(self) -> int:
        """Index the file; a last line that a kill cut short is taken away."""
        self._end = 0
        with open(self.folder / ANSWERS, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    self._count(int(row["key"], 16), Reply.from_json(row), len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"output: {self.folder / ANSWERS}: line {number} is no answer ({error}); "
                        "take the line out to go on"
                    ) from None
        os.ftruncate(self._file, self._end)
        return self._end

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / RUN
        if not path.exists():
            others = [name for name in os.listdir(self.folder) if not name.startswith(".")]
            if others:
                raise ValueError(f"output: {self.folder} holds {others[0]}, and no annotation run")
            content = json.dumps(settings, indent=1).encode() + b"\n"
            write_whole(path, lambda file: file.write(content))
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"output: {path} is not readable; was it changed by hand?") from None
        for name, value in settings.items():
            if before.get(name) != value:
                raise ValueError(
                    f"output: {self.folder} holds answers asked with {name} {before.get(name)!r}, "
                    f"not {value!r}; take another folder, or the same settings to go on"
                )
