"""What requests have freed goes back to the system, again and again, while the server runs."""

import asyncio
import ctypes
from types import SimpleNamespace

import pytest

from umer1.serving import process_memory


def test_again_and_again_until_it_is_cancelled(monkeypatch):
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=calls.append))
    monkeypatch.setattr(process_memory, "SECONDS", 0.001)

    async def use():
        task = asyncio.create_task(process_memory.return_freed_memory())
        while len(calls) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(use(), 60))
    assert calls[:3] == [0, 0, 0]


def test_another_c_library_has_nothing_to_return(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert asyncio.run(process_memory.return_freed_memory()) is None
