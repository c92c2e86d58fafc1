"""The batch size is what memory holds, and is chosen by the evaluation unless it is given."""

import subprocess
import sys

import pytest

from umer1 import Embedder
from umer1.engine import memory
from umer1.engine.pages import pages_for
from umer1.evaluation import evaluate
from umer1.evaluation.running.batch_size import MOST, PROMPT_TOKENS, UNKNOWN, rows_that_fit


@pytest.mark.parametrize(("rows", "expected"), [(5, 5), (0, 1), (1000, MOST["cpu"])])
def test_rows_are_those_that_memory_holds(monkeypatch, rows, expected):
    embedder = Embedder.load("tiny")
    page = memory.page_bytes(embedder.model.config, embedder.model.dtype)
    each = pages_for(PROMPT_TOKENS + 512)
    # one page is scratch, two keep a model without room for a row at work
    free = int(max(rows * each + each // 2, 2) * page / memory.CPU_SHARE) + page
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    found, why = rows_that_fit(embedder, 512)
    assert found == expected
    assert f"{rows} rows of {PROMPT_TOKENS + 512} tokens fit" in why


def test_the_evaluation_chooses_it(fake_embedder_class, benchmark_dir, tmp_path):
    seen = []

    class Records(fake_embedder_class):
        def stream(self, items, **options):
            seen.append(options["batch_size"])
            return super().stream(items, **options)

    for out, given in (("a", {}), ("b", {"batch_size": 7})):
        options = {"output_dir": tmp_path / out, "progress": False, "names": ["digit"], **given}
        evaluate(Records(), benchmark_dir, **options)
    assert seen == [UNKNOWN, 7]


def test_scores_are_read_without_torch():
    """A report on a laptop should not wait for it."""
    code = "import sys, umer1.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
