"""Training records: labels, headers, placeholders."""

import re

import pytest
import torch
from processor_inputs import (
    ASK,
    CLIP,
    CORPUS,
    LIMITS,
    expected_inputs,
    make_tokenizer,
    noise,
    text_part,
)

from umer1.model.sequence import pack
from umer1.model.tiny import build_tokenizer
from umer1.processor import Processor
from umer1.prompts import Item, Medium, render_prompt


def test_labels_of_a_record(processor, reference):
    human = f"<image>\nWhat is it?{ASK}"
    response = "<think>It's 12.</think><answer>a cat\n<gen_emb>"
    picture = noise(90, 70)
    sequence, labels = processor.encode_turns(human, response, [Medium("image", picture)])
    prompt = expected_inputs(
        reference, {"type": "image", "image": picture}, text_part(human.removeprefix("<image>"))
    )["input_ids"][0]
    after = processor.tokenizer(response + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
    assert sequence.input_ids.tolist() == [*prompt.tolist(), *after]
    assert labels.tolist() == [-100] * len(prompt) + after
    assert labels.dtype == torch.int64
    assert labels[-2:].tolist() == after[-2:] and processor.decode(after[-2:]) == "<|im_end|>\n"
    assert after[-3] == processor.gen_id
    pack([sequence])


def test_the_header_of_the_assistant_is_masked_whole_and_alone():
    """Three tokens with a real vocabulary; byte by byte there are eleven."""
    whole = Processor.from_parts(make_tokenizer(["assistant"]), LIMITS)
    small = Processor.from_parts(build_tokenizer(["a"], 300), LIMITS)
    for processor, count in ((whole, 3), (small, 11)):
        sequence, labels = processor.encode_turns(f"a{ASK}", "b<gen_emb>")
        start = int((labels != -100).nonzero()[0])
        opening = (sequence.input_ids == processor.text.id("<|im_start|>")).nonzero()[-1]
        assert start - int(opening) == count
        assert processor.decode(labels[start:].tolist()) == "b<gen_emb><|im_end|>\n"


def test_a_response_that_begins_with_a_newline():
    """The header's newline merges with it: upstream masks the merged token, and so do we."""
    processor = Processor.from_parts(make_tokenizer(corpus=[*CORPUS, "a\n\nb\n\nc"]), LIMITS)
    sequence, labels = processor.encode_turns(f"a{ASK}", "\nb<gen_emb>")
    whole = "".join(
        [*render_prompt(Item("a")), "\nb<gen_emb><|im_end|>\n"]  # the blank rule is "none"
    )
    expected = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert sequence.input_ids.tolist() == expected
    assert processor.decode(labels[labels != -100].tolist()) == "b<gen_emb><|im_end|>\n"


def test_placeholders_in_a_record_stand_for_its_media(processor):
    media = [Medium("image", noise()), Medium("image", noise(56, 56)), Medium("video", CLIP)]
    sequence, _ = processor.encode_turns(f"<image><image>\nx <video>{ASK}", "a<gen_emb>", media)
    assert sequence.grid_thw.tolist() == [[1, 2, 8], [1, 4, 4], [3, 4, 4]]
    pack([sequence])


@pytest.mark.parametrize(
    ("human", "media", "message"),
    [
        ("a", ["image"], "human turn: its placeholders [] do not match the media given, ['image']"),
        ("<image>", [], "human turn: its placeholders ['image'] do not match the media given, []"),
        ("<video>", ["image"], "['video'] do not match the media given, ['image']"),
        ("<image><video>", ["video", "image"], "['image', 'video'] do not match"),
    ],
)
def test_records_whose_placeholders_do_not_fit(processor, human, media, message):
    given = [Medium(kind, CLIP if kind == "video" else noise()) for kind in media]
    with pytest.raises(ValueError, match=re.escape(message)):
        processor.encode_turns(human, "a", given)


def test_records_with_broken_text(processor):
    with pytest.raises(ValueError, match="^human turn: not valid Unicode"):
        processor.encode_turns("a\ud800", "b")
    with pytest.raises(ValueError, match="^response: not valid Unicode"):
        processor.encode_turns("a", "b\ud800")
