"""Prompts byte for byte, parsing of what users pass, and the shape of answers."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from umer1.prompts import (
    GENERATION_INSTRUCTION,
    Item,
    Medium,
    Template,
    format_ok,
    parse_item,
    parse_response,
    render_prompt,
)

HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n"
# copied from eval_collator.py and from the README of the release
EVALUATION = "Represent the above input text, images, videos, or any combination of the three as embeddings. First output the thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. Finally, use the <gen_emb> tag to represent the entire input."
README = """Represent the above input text, images, videos, or any combination of the three as embeddings. 
First output the thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. 
Finally, use the <gen_emb> tag to represent the entire input."""

CAT, DOG = Medium("image", "cat.png"), Medium("image", "dog.png")
CLIP = Medium("video", "clip.mp4")
MARKS = {CAT: "[cat]", DOG: "[dog]", CLIP: "[clip]"}


def flat(item, **options):
    return "".join(MARKS.get(piece, piece) for piece in render_prompt(item, **options))


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("evaluation", f"[cat]What is it?\n<disc_emb>\n{EVALUATION}"),
        ("sft", f"[cat]\nWhat is it?\n<disc_emb>\n{EVALUATION}"),
        ("rl", f"[cat]What is it? \n<disc_emb>\n{EVALUATION}"),
        ("readme", f"[cat]What is it?\n<disc_emb>\n{README}"),
    ],
)
def test_templates_byte_for_byte(dialect, body):
    item = Item("What is it?", (CAT,))
    assert flat(item, dialect=dialect) == HEAD + body + END
    upto_disc = body[: body.index("<disc_emb>") + len("<disc_emb>\n")]
    assert flat(item, mode="disc", dialect=dialect) == HEAD + upto_disc
    assert flat(item, mode="plain", dialect=dialect) == (
        HEAD + body.partition(" \n<disc" if dialect == "rl" else "\n<disc")[0] + END
    )


def test_instruction_is_one_line():
    assert GENERATION_INSTRUCTION == EVALUATION


def test_media_stand_in_order_before_the_text():
    assert flat(Item("Compare.", (CAT, CLIP, DOG))).startswith(HEAD + "[cat][clip][dog]Compare.\n")
    assert flat(Item("Compare.", (CAT, DOG)), dialect="sft").startswith(
        HEAD + "[cat]\n[dog]\nCompare.\n"
    )


def test_evaluation_drops_placeholders_only_beside_media():
    text = "<|image_pad|> <|image_1|>\nA page.<|video_pad|> \n"
    assert flat(Item(text, (CAT,)), mode="disc") == HEAD + "[cat]A page.\n<disc_emb>\n"
    assert flat(Item(text), mode="disc") == HEAD + text.strip() + "\n<disc_emb>\n"


def test_only_evaluation_strips():
    item = Item(" a \n")
    assert flat(item, mode="disc") == HEAD + "a\n<disc_emb>\n"
    for dialect in ("sft", "readme"):
        assert flat(item, mode="disc", dialect=dialect) == HEAD + " a \n\n<disc_emb>\n"


def test_text_of_the_item_is_not_trusted():
    pieces = render_prompt(Item("<|im_end|>", (CAT,)))
    assert [type(piece) for piece in pieces] == [Template, Medium, str, Template]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode: got 'both'"),
        ({"dialect": "eval"}, "dialect: got 'eval', wants one of 'evaluation', 'sft'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        render_prompt(Item("a"), **options)


# --- parse_item ---


def test_items():
    picture = Image.new("RGB", (1, 1))
    assert parse_item("a cat") == Item("a cat")
    assert parse_item({"text": "a cat"}) == Item("a cat")
    assert parse_item({"instruction": "Find:", "text": "a cat"}).text == "Find: a cat"
    assert parse_item({"instruction": "Find:", "image": "cat.png"}) == Item("Find:", (CAT,))
    assert parse_item({"images": ["cat.png", "dog.png"], "text": None}) == Item("", (CAT, DOG))
    assert parse_item({"video": "clip.mp4", "image": None}) == Item("", (CLIP,))
    assert parse_item(picture).media[0].source is picture
    assert parse_item(Item("a")) == Item("a")


def test_media_remember_where_they_stand():
    item = parse_item({"images": ["cat.png", "dog.png"]}, where="item 3")
    assert [medium.where for medium in item.media] == [
        "item 3, field 'images[0]'",
        "item 3, field 'images[1]'",
    ]


@pytest.mark.parametrize(
    ("obj", "error", "message"),
    [
        ("", ValueError, "item 3: is empty, wants text, an image or a video"),
        (" \n", ValueError, "item 3: is empty"),
        ({}, ValueError, "item 3: is empty"),
        ({"text": None, "images": []}, ValueError, "item 3: is empty"),
        (7, TypeError, "item 3: wants a string, a PIL image, a dict"),
        (None, TypeError, "item 3: wants a string"),
        ([], TypeError, "item 3: wants a string"),
        ({"txt": "a"}, ValueError, "item 3: unknown key 'txt', wants any of text, image, images"),
        ({"text": 3}, TypeError, "item 3, field 'text': wants a string, got int"),
        ({"text": "a\ud800"}, ValueError, "item 3, field 'text': not valid Unicode"),
        ({"image": "a", "video": "b"}, ValueError, "item 3: has 'image' and 'video', wants only"),
        ({"image": "a", "images": ["b"]}, ValueError, "item 3: has 'image' and 'images'"),
        ({"image": ["a"]}, TypeError, "item 3, field 'image': wants one image, got a list"),
        ({"images": "a"}, TypeError, "item 3, field 'images': wants a list of images, got str"),
    ],
)
def test_bad_items(obj, error, message):
    with pytest.raises(error, match=re.escape(message)):
        parse_item(obj, where="item 3")


def test_medium_of_unknown_kind():
    with pytest.raises(ValueError, match="item 0: kind wants 'image' or 'video', got 'audio'"):
        Medium("audio", "a.wav", "item 0")


# --- chat messages ---


def user(*content):
    return [{"role": "user", "content": list(content)}]


TEXT = {"type": "text", "text": "Represent the given images."}


def test_messages_of_the_readme():
    messages = user(
        {"type": "image", "image": "cat.png"}, {"type": "image", "image": "dog.png"}, TEXT
    )
    assert parse_item(messages) == Item("Represent the given images.", (CAT, DOG))
    frames = ["file:///a.jpg", "file:///b.jpg"]
    assert parse_item(user({"type": "video", "video": frames}, TEXT)).media[0].source == frames
    part = {"type": "video", "video": "file:///v.mp4", "max_pixels": 360 * 420, "fps": 1.0}
    assert parse_item(user(part, TEXT)).media == (
        Medium("video", "file:///v.mp4", max_pixels=360 * 420, fps=1.0),
    )
    part = {
        "type": "video",
        "video": "https://path/to/video.mp4",
        "min_pixels": 4 * 28 * 28,
        "max_pixels": 256 * 28 * 28,
        "total_pixels": 20480 * 28 * 28,
    }
    assert parse_item(user(part, TEXT)).media[0].total_pixels == 20480 * 28 * 28


@pytest.mark.parametrize("ending", [f"\n<disc_emb>\n{README}", f"\n<disc_emb>\n{EVALUATION}",
                                    f" \n<disc_emb>\n{EVALUATION}", "\n<disc_emb>\n"])  # fmt: skip
def test_a_prompt_that_is_already_in_the_messages_is_not_doubled(ending):
    item = parse_item(user({"type": "text", "text": "What is in the image?" + ending}))
    assert item == Item("What is in the image?")


def test_other_forms_of_messages():
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert parse_item([system, {"role": "user", "content": "a cat"}]) == Item("a cat")
    assert parse_item({"role": "user", "content": "a cat"}) == Item("a cat")
    part = {"type": "image_url", "image_url": {"url": "cat.png"}}
    assert parse_item(user(part)) == Item("", (CAT,))
    assert parse_item(user({"image": "cat.png"}, {"text": "a"})) == Item("a", (CAT,))
    assert parse_item(user({"type": "video", "video": "v", "nframes": 5})).media[0].num_frames == 4


def test_messages_keep_their_order():
    messages = user({"type": "text", "text": "This "}, {"type": "image", "image": "cat.png"}, TEXT)
    body = "This [cat]Represent the given images.\n<disc_emb>\n"
    assert flat(parse_item(messages), mode="disc") == HEAD + body


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ([{"role": "assistant", "content": "a"}], ValueError, "wants one user turn, got the roles"),
        (user(TEXT) * 2, ValueError, "wants one user turn, got the roles ['user', 'user']"),
        ([{"role": "system", "content": "Be rude."}, *user(TEXT)], ValueError, "the system turn"),
        ([{"role": "user", "content": 3}], TypeError, "field 'content': wants a string or a list"),
        (user("a"), TypeError, "field 'content[0]': wants a dict"),
        (
            user(TEXT, {"type": "audio", "audio": "a"}),
            ValueError,
            "field 'content[1]': 'type' wants",
        ),
        (user({"type": "text"}), TypeError, "'text' wants a string, got NoneType"),
        (user({"type": "image"}), ValueError, "wants one of image, image_url, url, path, got none"),
        (user({"type": "image", "image": "a", "dpi": 3}), ValueError, "unknown key 'dpi'"),
        (user({"type": "image", "image": "a", "fps": 3}), ValueError, "are for videos"),
        (user({"type": "video", "video": "a", "fps": 1, "nframes": 2}), ValueError, "only one of"),
        (user({"type": "image", "image": "a", "min_pixels": 10**12}), ValueError, "'min_pixels'"),
        (user({"type": "image", "image": "a", "max_pixels": "9"}), ValueError, "got '9'"),
        (user(), ValueError, "item 0: is empty"),
    ],
)
def test_bad_messages(messages, error, message):
    with pytest.raises(error, match=re.escape(message)):
        parse_item(messages)


# --- answers ---

FORMAT = re.compile(r"<think>.*?</think>.*?\s*<answer>.*?\s*<gen_emb>", re.DOTALL)
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<gen_emb>", "a", " ", "\n", "<think"]


def test_format_accepts_the_data_which_never_closes_answer():
    assert format_ok("<think>It is a cat.</think><answer>A cat\n<gen_emb>")
    assert format_ok("<think></think>\n<answer>x</answer><gen_emb><|im_end|>")
    assert not format_ok("<think>It is a cat.</think><answer>A cat</answer>")
    assert not format_ok("<think>It is a cat.<answer>A cat\n<gen_emb></think>")


@given(st.lists(st.sampled_from(TAGS), max_size=14).map("".join))
def test_format_is_the_expression_of_the_release(text):
    assert format_ok(text) == (FORMAT.search(text) is not None)


def test_format_takes_linear_time():
    hostile = "<think>" + "</think>" * 2000 + "\n" * 20000
    start = time.perf_counter()
    assert not format_ok(hostile)
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>why</think><answer>what\n<gen_emb>", ("why", "what")),
        ("<think>why</think><answer>what\n<gen_emb><|im_end|>\n", ("why", "what")),
        ("<think> why </think>\n<answer> what </answer><gen_emb>", ("why", "what")),
        ("<think>why</think>what<gen_emb>", ("why", "what")),
        ("why</think><answer>what", ("why", "what")),
        ("<think>why<answer>what<gen_emb>", ("why", "what")),
        ("<think>why", ("why", "")),
        ("<think>why <gen_emb>", ("why", "")),
        ("<think>the <gen_emb> tag</think><answer>what", ("the <gen_emb> tag", "what")),
        ("<think>why</think><answer>what<gen_emb> and more", ("why", "what")),
        ("<answer>what<gen_emb>", ("", "what")),
        ("what<gen_emb><|endoftext|>", ("", "what")),
        ("what<|im_end|>\n<|im_start|>user", ("", "what")),
        ("<gen_emb>", ("", "")),
        ("", ("", "")),
        (
            "<think>a</think><answer><|begin_of_box|>b<|end_of_box|>\n<gen_emb>",
            ("a", "<|begin_of_box|>b<|end_of_box|>"),
        ),
    ],
)
def test_parse_response(text, expected):
    assert parse_response(text) == expected


def test_parse_response_takes_linear_time():
    start = time.perf_counter()
    parse_response("<think>" + " \n" * 50000 + "<gen_emb> " * 50000)
    assert time.perf_counter() - start < 0.5
