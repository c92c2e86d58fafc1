"""A writer of an index that is killed at random moments, again and again: `python killed_writer.py
DIRECTORY KILLS SEED`.

Step by step the same index grows and shrinks by a fixed plan. The writer says over a pipe which
steps were acknowledged; after a kill the index has to hold exactly what they leave, or that and the
whole of the step under way. Prints one line of JSON; an assertion ends it with a traceback.
"""

import json
import os
import random
import signal
import sys
import time

import numpy as np

from umer1.retrieval import VectorIndex
from umer1.retrieval.library import faiss_library

DIMENSION, ITEMS = 16, 5


def vectors(names):
    """mode -> float32 [n, 16], made of the names."""
    rows = [np.random.default_rng(list(name.encode())).standard_normal(32) for name in names]
    split = np.array(rows, dtype=np.float32).reshape(len(names), 2, DIMENSION)
    split /= np.linalg.norm(split, axis=2, keepdims=True)
    return {"disc": split[:, 0], "gen": split[:, 1]}


def names_of(step):
    return [f"{step}-{number}" for number in range(ITEMS)]


def plan(step):
    """(what to do, ids, content): content "a" is the first, "b" replaces it."""
    if step % 5 == 4:
        return "delete", names_of(step - 1)[:3] + names_of(step - 2), None
    if step % 11 == 10:
        return "optimize", [], None
    if step % 7 == 6:
        return "replace", names_of(step - 1)[3:] + [f"{step}-new"], "b"
    return "add", names_of(step), "a"


def after(steps):
    """id -> content once so many steps are done."""
    held = {}
    for step in range(steps):
        what, ids, content = plan(step)
        if what == "delete":
            for name in ids:
                held.pop(name, None)
        else:
            held.update(dict.fromkeys(ids, content))
    return held


def do(index, step):
    what, ids, content = plan(step)
    if what == "delete":
        index.delete(ids)
    elif what == "optimize":
        index.optimize()
    else:
        entries = [{"content": content}] * len(ids)
        named = vectors([name + content for name in ids])
        index.add(ids, named, entries, replacing=what == "replace")


def write(directory, step, pipe):
    if not VectorIndex.exists(directory):
        VectorIndex.create(directory, model="m@1", dimension=DIMENSION, kind="hnsw")
    index = VectorIndex.open(directory)
    while True:
        do(index, step)
        step += 1
        os.write(pipe, b"%d\n" % step)


def check(directory, acknowledged):
    """The number of steps that the index holds: those acknowledged, or one more."""
    if not VectorIndex.exists(directory):
        assert acknowledged == 0
        return 0
    index = VectorIndex.open(directory)
    held = {name: (number, entry["content"]) for number, name, entry in index.items()}
    found = {name: content for name, (_, content) in held.items()}
    steps = next((n for n in (acknowledged, acknowledged + 1) if after(n) == found), None)
    assert steps is not None, (acknowledged, sorted(found))
    assert len(index) == len(found)
    if found:
        named = vectors([name + content for name, content in found.items()])
        for mode in ("disc", "gen"):
            stored = index.vectors(mode, [number for number, _ in held.values()])
            np.testing.assert_array_equal(stored, named[mode])
        hits = index.search({mode: rows[-3:] for mode, rows in named.items()}, 1, "fused")
        assert [hit[0].id for hit in hits] == list(found)[-3:]
    return steps


def main(directory, kills, seed):
    moments = random.Random(seed)
    # imported before the fork; nothing here starts its threads
    faiss_library().omp_set_num_threads(1)
    steps = ahead = 0
    for _ in range(kills):
        read, written = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            write(directory, steps, written)
        os.close(written)
        with os.fdopen(read) as lines:
            acknowledged = steps
            for _ in range(moments.randint(0, 12)):
                acknowledged = int(next(lines))
            time.sleep(moments.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for line in lines:
                acknowledged = int(line)
        steps = check(directory, acknowledged)
        ahead += steps > acknowledged
    index = VectorIndex.open(directory)
    index.optimize()
    check(directory, steps)
    print(json.dumps({"kills": kills, "steps": steps, "ahead": ahead, "items": len(index)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
