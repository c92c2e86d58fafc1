"""A folder on the disk: one function, used wherever a name has to outlive a crash."""

import os
from pathlib import Path

import pytest

import umer1
from umer1.durable import sync_folder


def test_the_folder_itself_is_flushed_and_let_go(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(tmp_path)
    assert flushed == [str(tmp_path)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")


def test_nobody_else_opens_a_folder_to_flush_it():
    root = Path(umer1.__file__).parent
    texts = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}
    assert [name for name, text in texts.items() if "os.O_RDONLY)" in text and "fsync" in text] == [
        "durable.py"
    ]
