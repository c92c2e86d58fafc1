"""The examples of other projects run as they stand, on the bundled model."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def printed(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return printed


def test_sentence_transformers_embeds(run, tmp_path):
    pytest.importorskip("sentence_transformers", minversion="6.0")
    pytest.importorskip("skimage")
    printed = run("embed_sentence_transformers.py", "--save", str(tmp_path / "saved"))
    assert "disc: a cat: astronaut" in printed and "gen: an astronaut: astronaut" in printed
    assert "saved and loaded, the same vectors: True" in printed
    assert (tmp_path / "saved" / "modules.json").is_file()


def test_sentence_transformers_trains(run, tmp_path):
    pytest.importorskip("sentence_transformers", minversion="6.0")
    pytest.importorskip("sklearn")
    printed = run("train_sentence_transformers.py", "--output", str(tmp_path))
    before, after = (
        float(line.split()[-1]) for line in printed.splitlines() if line[:8] == "accuracy"
    )
    assert after > before + 0.2
    assert (tmp_path / "sentence_umer1_config.json").is_file()


def test_grpo_steps(run, tmp_path):
    pytest.importorskip("trl", minversion="1.16")
    pytest.importorskip("sklearn")
    printed = run("train_trl_grpo.py", "--steps", "2", "--output", str(tmp_path))
    steps = [line for line in printed.splitlines() if line.startswith("step ")]
    assert len(steps) == 2 and all("rank" in line and "format" in line for line in steps)


@pytest.mark.parametrize("library, name, wanted", [
    ("langchain_core", "search_langchain.py", "a cup of coffee"),
    ("llama_index", "search_llama_index.py", "picture: "),
])  # fmt: skip
def test_vectors_are_searched(run, library, name, wanted):
    pytest.importorskip(library)
    pytest.importorskip("skimage")
    assert wanted in run(name)
