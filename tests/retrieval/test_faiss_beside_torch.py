"""FAISS and torch bring an OpenMP each: both work in one process, whichever is first and with
threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import umer1

ROOT = Path(umer1.__file__).parent.parent
BOTH = """
import sys
{imports}
import numpy as np, torch
from umer1.retrieval import VectorIndex
random = np.random.default_rng(0)
rows = random.standard_normal((20_000, 64)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
index = VectorIndex.create(sys.argv[1], model="m", dimension=64, modes=("gen",), kind="ivfpq")
index.add([str(number) for number in range(len(rows))], {{"gen": rows}})
index.optimize()
queries = rows[:200]
exact = np.argsort(-(queries @ rows.T), axis=1)[:, 0]
product = (torch.from_numpy(queries) @ torch.from_numpy(rows).T).argmax(1).numpy()
for _ in range(5):
    found = [hits[0].number for hits in index.search({{"gen": queries}}, 3)]
    again = (torch.from_numpy(queries) @ torch.from_numpy(rows).T).argmax(1).numpy()
    assert (again == product).all() and (product == exact).all()
    assert (np.array(found) == exact).mean() > 0.95
print(torch.get_num_threads())
"""


def _python(code, *arguments, threads=2):
    path = os.pathsep.join([str(ROOT / "kernels"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import torch, faiss", "import faiss, torch"])
def test_both_work_with_two_threads_each(tmp_path, order):
    pytest.importorskip("faiss")
    done = _python(BOTH.format(imports=order), tmp_path / "a")
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_the_index_is_light_until_it_searches(index):
    code = (
        "import sys; from umer1.retrieval import VectorIndex\n"
        "opened = VectorIndex.open(sys.argv[1]); opened.describe(); opened.entry('p3')\n"
        "opened.delete(['p3'])\n"
        "print([name for name in ('torch', 'faiss', 'transformers') if name in sys.modules])"
    )
    done = _python(code, index.directory)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
