"""Calls of one Embedder from several threads wait for each other; none waits for itself."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from umer1 import Embedder
from umer1.turns import Turns

TEXTS = ["seven", "a cat", "a red bicycle", "3 + 4"]


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny", dtype=torch.float32, device="cpu")


def test_threads_get_what_one_caller_gets(embedder):
    settings = dict(max_new_tokens=8, progress=False)
    wanted = [embedder.encode(text, **settings) for text in TEXTS]
    start = threading.Barrier(len(TEXTS))

    def call(place):
        start.wait()
        # a batch size of its own: the engine's buffers are made again between the calls
        return embedder.encode(TEXTS[place], batch_size=2 + place, **settings)

    with ThreadPoolExecutor(len(TEXTS)) as threads:
        got = list(threads.map(call, range(len(TEXTS)), timeout=120))
    for one, other in zip(got, wanted):
        np.testing.assert_allclose(one.gen, other.gen, atol=1e-5)
        np.testing.assert_allclose(one.disc, other.disc, atol=1e-5)


def test_a_call_beside_an_unfinished_stream_is_an_error_in_its_thread(embedder):
    stream = embedder.stream(TEXTS, "disc", batch_size=1)
    next(stream)
    for call in (lambda: embedder.encode("b", progress=False), lambda: next(embedder.stream("b"))):
        with pytest.raises(
            RuntimeError, match="this Embedder is in use by a stream of this thread"
        ):
            call()
    assert len(list(stream)) == len(TEXTS) - 1
    assert len(embedder.encode("b", "disc", progress=False).disc) == 1
    stream = embedder.stream(TEXTS, "disc")
    next(stream)
    stream.close()
    assert len(embedder.encode("b", "disc", progress=False).disc) == 1


def test_another_thread_waits_for_a_stream_wherever_it_is_read(embedder):
    stream = embedder.stream(TEXTS, "disc", batch_size=1)
    next(stream)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        waiting = one.submit(embedder.encode, "b", "disc", progress=False)
        two.submit(next, stream).result(60)
        # the stream is in the second thread now
        error = two.submit(embedder.encode, "b", "disc", progress=False).exception(60)
        assert "in use by a stream of this thread" in str(error) and not waiting.done()
        two.submit(stream.close).result(60)
        assert len(waiting.result(60).disc) == 1


def test_a_failure_gives_the_turn_back(embedder, tmp_path):
    with pytest.raises(ValueError, match="none.png"):
        embedder.encode(["a", {"image": tmp_path / "none.png"}], progress=False)
    assert len(embedder.encode("a", "disc", progress=False).disc) == 1


def test_a_copy_has_turns_of_its_own():
    turns = Turns()
    with turns.take("it"), copy.deepcopy(turns).take("its copy"):
        pass
