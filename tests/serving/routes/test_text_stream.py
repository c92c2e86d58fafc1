"""Streamed text: joined it is the decoded text, and no piece of it ends in half a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1.embedder import BUNDLED
from umer1.processor import Processor
from umer1.serving.routes.text_stream import TextStream

TEXTS = [
    "<think>3+4=7</think><answer>seven\n<gen_emb>",
    "naïve 日本語 🙂👩‍👩‍👧 ﷽ � end",
    "  spaces \n\n\t and a trailing one ",
    "🙂",
]


@pytest.fixture(scope="module")
def processor():
    return Processor.load(BUNDLED["tiny"])


def pieces(processor, tokens):
    stream = TextStream(processor.decode)
    return [stream.push(token) for token in tokens], stream.end()


@pytest.mark.parametrize("text", TEXTS)
def test_every_piece_is_whole_and_comes_as_early_as_it_can(processor, text):
    tokens = processor.text.encode(text)
    told, rest = pieces(processor, tokens)
    assert "".join(told) == text and rest == ""
    for count in range(len(tokens) + 1):  # what a whole-text decoder is sure of after each token
        certain = processor.decode(tokens[:count])
        sent = "".join(told[:count])
        assert certain == sent or certain == sent + "�"


def test_an_unfinished_character_comes_at_the_end(processor):
    """The row was cut inside a character: its text ends as the decoder writes it."""
    tokens = processor.text.encode("a🙂")
    assert len(tokens) > 2, "this tokenizer needs several tokens for the character"
    told, rest = pieces(processor, tokens[:-1])
    assert "".join(told) == "a" and rest == processor.decode(tokens[:-1])[1:]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_join_to_their_decoded_text(processor, data):
    """Also bytes that make no characters, as sampling at a high temperature writes them."""
    size = len(processor.tokenizer)
    tokens = data.draw(st.lists(st.integers(0, size - 1), max_size=24))
    told, rest = pieces(processor, tokens)
    assert "".join(told) + rest == processor.decode(tokens)
