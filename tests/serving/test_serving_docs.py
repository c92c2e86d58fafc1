"""docs/serving.md works by copy and paste."""

import re
from pathlib import Path

import numpy as np
import pytest

from umer1.serving import ServerSettings
from umer1.serving.routes.schemas import EmbeddingsRequest

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_the_client_example_runs_as_it_stands(running_server, offline, text):
    example = next(block for block in _python_blocks(text) if "OpenAI(" in block)
    with running_server(ServerSettings(model_name="tiny")) as server:
        names = {}
        exec(example.replace("http://127.0.0.1:8000", server.url), names)
    wanted = offline.encode(["seven", "3 + 4"], "both", progress=False)
    assert np.array_equal(np.float32(names["vectors"]), wanted.gen)
    (entry,) = names["response"].data
    assert (entry.reasoning, entry.summary) == (wanted.reasoning[1], wanted.summary[1])
    assert np.array_equal(np.float32(entry.embedding), wanted.gen[1])


def test_every_field_is_explained(text):
    table = set(re.findall(r"`(\w+)`", text.partition("| Field |")[2].partition("\n\n")[0]))
    assert set(EmbeddingsRequest.model_fields) <= table


def _python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)
