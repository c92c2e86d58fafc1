"""The order in which Python's sets hand out strings, made the same in every process.

Upstream pairs grades with labels in the order of `list(set(labels))`. For strings that order
changes with PYTHONHASHSEED, from run to run; a score that does is worth nothing. So it is taken
from a Python with seed 0, or from this one if PYTHONHASHSEED is set: then it is what upstream's
program gives under that seed.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache

SEED = "0"
_ANSWERS = """
import json, sys
for line in sys.stdin:
    print(json.dumps(list(set(json.loads(line)))), flush=True)
"""
_lock = threading.Lock()


def set_order(names: Sequence) -> list:
    """`list(set(names))` under the fixed seed."""
    seeded = os.environ.get("PYTHONHASHSEED", "random") != "random"
    if seeded or not any(isinstance(name, str) for name in names):
        return list(set(names))
    with _lock:
        python = _python()
        python.stdin.write(json.dumps(list(names)) + "\n")
        python.stdin.flush()
        return json.loads(python.stdout.readline())


@cache
def _python() -> subprocess.Popen:
    """A Python that answers; it ends when this process closes its input, by ending."""
    return subprocess.Popen(
        [sys.executable, "-S", "-s", "-c", _ANSWERS],
        env={**os.environ, "PYTHONHASHSEED": SEED},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
