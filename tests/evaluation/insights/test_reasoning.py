"""Vectors of responses that are given, against those of the generation that wrote them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from umer1 import Embedder
from umer1.evaluation.insights.reasoning import Response, response_vectors, shuffle_tokens


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def items():
    stripes = Image.fromarray((np.indices((56, 84)).sum(0) // 7 % 2 * 200).astype(np.uint8))
    video = [Image.new("RGB", (56, 56), (60 * frame, 20, 90)) for frame in range(4)]
    return [
        {"text": "Which digit is in the picture?", "image": stripes.convert("RGB")},
        "the number seven",
        {"text": "Which digits are shown?", "video": video},
    ]


def test_what_the_model_wrote_gives_the_vector_it_gave(embedder, items):
    written = embedder.encode(items, mode="gen", max_new_tokens=64, progress=False)
    assert written.hit.all()
    own = [Response(*texts) for texts in zip(written.reasoning, written.summary, strict=True)]
    vectors = response_vectors(embedder, items, [[response] for response in own])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:, 0], written.gen, atol=2e-5)


def test_batches_change_nothing_and_edits_change_the_vector(embedder, items):
    own = Response("The digits are 3 and 4.", "seven")
    edits = [own, replace(own, reasoning=""), replace(own, summary="two"), Response("", "")]
    done = []
    together = response_vectors(embedder, items, [edits] * 3, advance=done.append)
    alone = response_vectors(embedder, items, [edits] * 3, tokens=1)
    assert together.shape == (3, 4, embedder.dimension) and sum(done) == 3
    np.testing.assert_allclose(together, alone, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, atol=1e-6)
    cosines = np.einsum("ned,nd->ne", together, together[:, 0])
    assert (cosines[:, 1:] < 0.999).all()


def test_lists_must_match_the_items(embedder, items):
    one = Response("r", "s")
    with pytest.raises(ValueError, match=r"responses: got 2 lists of \[1\] for 3 items"):
        response_vectors(embedder, items, [[one], [one]])
    with pytest.raises(ValueError, match=r"responses: got 3 lists of \[1, 2\] for 3 items"):
        response_vectors(embedder, items, [[one], [one, one], [one]])


def test_shuffled_tokens_are_the_same_tokens(embedder):
    processor, text = embedder.processor, "8+4=12+0=12+4=16. Largest 9."
    shuffled = shuffle_tokens(processor, text, "1")
    assert shuffled != text and shuffled == shuffle_tokens(processor, text, "1")
    assert shuffled != shuffle_tokens(processor, text, "2")
    assert sorted(shuffled) == sorted(text)
