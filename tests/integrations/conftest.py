"""Data loaders as mteb hands them over, without its tasks; pictures, clips and pairs."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from umer1.data.records import Pair, Side

TASK = {"name": "Some", "type": "Retrieval", "prompt": None}


class Batches:
    """A loader over rows that are no data set: what mteb's cache wrappers and tests pass."""

    def __init__(self, rows, batch_size):
        self.rows, self.batch_size = rows, batch_size
        self.dataset = SimpleNamespace(features={})

    def __iter__(self):
        for start in range(0, len(self.rows), self.batch_size):
            part = self.rows[start : start + self.batch_size]
            yield {name: [row[name] for row in part] for name in part[0]}


@pytest.fixture
def batches():
    return Batches


@pytest.fixture
def task():
    """Metadata of a task with this prompt."""
    return lambda prompt=None: SimpleNamespace(**{**TASK, "prompt": prompt})


@pytest.fixture(scope="session")
def pictures():
    chance = np.random.default_rng(5)
    sizes = (28, 112), (56, 84), (90, 61), (28, 28)
    return [Image.fromarray(chance.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


@pytest.fixture(scope="session")
def clips():
    """Video files of 24 and of 5 frames."""
    av = pytest.importorskip("av")
    chance, files = np.random.default_rng(6), []
    for frames in (24, 5):
        file = io.BytesIO()
        with av.open(file, mode="w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(frames):
                pixels = chance.integers(0, 256, (48, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="session")
def pairs(pictures):
    """Queries with one, two and no pictures; targets of text and of a picture."""

    def png(picture):
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    first, second, third, _ = map(png, pictures)
    sides = [
        (Side(" what \n", images=[first]), Side("seven")),
        (Side("both", images=[first, second]), Side("", images=[third])),
        (Side("no picture"), Side("nine")),
        (Side("x", images=[third]), Side("", images=[second])),
    ]
    return [Pair("some", *each) for each in sides]
