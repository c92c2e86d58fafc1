"""Every example runs as it stands, on the bundled model, and prints what it promises."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _run(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "name, promised",
    [
        ("embed_disc.py", ["piece of coffee, astronaut:", "piece of coffee, coffee:"]),
        ("embed_gen.py", ["digits shown: [0 8 9 8]", "reasoning:", "nearest answer:"]),
        ("embed_images.py", ["disc: (2, 128)", "summary:"]),
        ("embed_video.py", ["frames        cosine to frames 1.000", "URL           cosine to frames 1.000"]),
    ],
)  # fmt: skip
def test_example_runs(name, promised, monkeypatch, capsys):
    printed = _run(name, monkeypatch, capsys)
    for line in promised:
        assert line in printed


@pytest.mark.slow
def test_mteb_example_runs(monkeypatch, capsys):
    pytest.importorskip("mteb")
    printed = _run("evaluate_mteb.py", monkeypatch, capsys)
    assert "all passed: True" in printed
    for modality in ("text", "image", "video"):
        assert f"{modality}: ✓" in printed
