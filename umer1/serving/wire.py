"""Messages between a server and the process of its engine: pickles in a socket that these two share.

Tensors travel as numpy arrays, for which pickle copies bytes; torch's own way takes a storage file
or a shared memory segment for each.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from multiprocessing.connection import Connection
from typing import Any

import torch


def dumps(message: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.dispatch_table = _TABLE
    pickler.dump(message)
    return buffer.getvalue()


def receive(connection: Connection) -> Any:
    """The next message; EOFError once the other side has ended."""
    return pickle.loads(connection.recv_bytes())


def sendable(error: Exception) -> Exception:
    """Itself, unless its class cannot be made anew from its arguments."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _as_array(tensor: torch.Tensor) -> tuple:
    return torch.from_numpy, (tensor.detach().cpu().numpy(),)


_TABLE = copyreg.dispatch_table.copy()
_TABLE[torch.Tensor] = _as_array
