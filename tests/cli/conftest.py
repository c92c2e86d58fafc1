"""An embedder that hashes, and a way to run the command line as a user does, stdout and stderr
apart.
"""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from umer1.cli import main

IDENTITY = "fake@0"


class HashingEmbedder:
    """Equal items have equal vectors in both modes; `calls` records the options."""

    dimension = 16

    def __init__(self):
        self.calls = []
        trained = SimpleNamespace(matryoshka_dimensions=(), aligned_modes=False)
        self.model = SimpleNamespace(config=trained)

    def encode(self, items, mode="both", n=1, progress=True, **options):
        self.calls.append({"items": items, "mode": mode, "n": n, "progress": progress, **options})
        print("a library prints to stdout")
        vectors = np.stack([self._vector(item) for item in items])
        gen = vectors if n == 1 else np.stack([vectors] * n, axis=1)
        texts = {"reasoning": "because", "summary": "thing", "finish": "gen_emb", "tokens": 3}
        out = {
            name: [value if n == 1 else [value] * n] * len(items) for name, value in texts.items()
        }
        if mode == "disc":
            out = {name: [] for name in texts}
        return SimpleNamespace(
            disc=None if mode == "gen" else vectors, gen=None if mode == "disc" else gen, **out
        )

    def stream(self, items, mode="both", n=1, numbers=None, **options):
        """The last item finishes first."""
        self.calls.append({"items": items, "mode": mode, "n": n, "numbers": numbers, **options})
        calls = len(self.calls)
        for place in reversed(range(len(items))):
            yield place, self.encode([items[place]], mode=mode, n=n)
            del self.calls[calls:]

    def _vector(self, item):
        text = json.dumps({key: item[key] for key in item if key != "instruction"}, sort_keys=True)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(16)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def embedder(monkeypatch):
    made = HashingEmbedder()
    monkeypatch.setattr(
        "umer1.cli.models.load_embedder", lambda model, device=None, engine="native": made
    )
    monkeypatch.setattr("umer1.cli.models.model_identity", lambda model: f"{model}@0")
    return made


@pytest.fixture
def run(capsys):
    """run("embed", "a") -> status, stdout, stderr."""

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(status=status, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(3):
        path = folder / f"p{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (28, 28), (80 * number, 0, 0)).save(path)
    return folder
