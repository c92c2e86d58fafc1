"""Real servers on free ports, offline vectors to compare with, an engine that steps when it is told to."""

import contextlib
import io
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from PIL import Image

from umer1 import Embedder
from umer1.serving import ServerSettings, create_app

PATIENCE = 120  # seconds until a condition counts as never met


@pytest.fixture(scope="session")
def offline():
    """Vectors of the same checkpoint without a server."""
    return Embedder.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def wait_until():
    """wait_until(condition): returns once it holds."""

    def wait(condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "not within the time"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def running_server(wait_until):
    """with running_server(settings, embedder=…) as server: server.url, .app, .runner"""

    @contextlib.contextmanager
    def run(settings=None, embedder=None, indexes=None):
        embedder = embedder or Embedder.load("tiny", device="cpu")
        app = create_app(embedder, settings or ServerSettings(), indexes)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            wait_until(lambda: server.started)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                yield SimpleNamespace(url=url, app=app, runner=app.state.runner)
            finally:
                server.should_exit = True
                thread.join()

    return run


@pytest.fixture
def held_engine():
    """held_engine(engine): its steps wait for `.release()`, or for the end of the test."""
    gates = []

    def hold(engine):
        gate, step = threading.Event(), engine.step
        gates.append(gate)

        def held():
            gate.wait(PATIENCE)
            step()

        engine.step = held
        return SimpleNamespace(release=gate.set)

    yield hold
    for gate in gates:
        gate.set()


@pytest.fixture(scope="session")
def picture():
    """picture(number): the bytes of a small PNG, different for every number."""

    def make(number, side=56):
        noise = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()

    return make
