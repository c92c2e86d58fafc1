"""What the teacher is sent: words from the prompts file, media as bounded data URIs."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from umer1.data.annotation.messages import SentMedia, image_uri, messages
from umer1.data.annotation.prompts import OURS, Prompts
from umer1.data.annotation.sides import Question, bare_text, question, sft_record
from umer1.data.records import Pair, Side, sft_pair
from umer1.media import MediaError
from umer1.prompts import GENERATION_INSTRUCTION


def decoded(uri):
    kind, _, content = uri.partition(";base64,")
    return kind, base64.b64decode(content)


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def test_our_prompts_ask_both_sides_for_the_format():
    prompts = Prompts.load()
    for side in ("query", "target"):
        plain = prompts.render(side, Question("a {{ b }} {% c", "d"))
        assert "a {{ b }} {% c" in plain  # the data's own braces are letters
        for tag in ("<think>", "</think>", "<answer>", "</answer>"):
            assert tag in plain
        assert "picture" not in plain and "video" not in plain
        assert "in the 1 picture above" in prompts.render(side, Question("a", "d", ("x",)))
        assert "in the 3 pictures above" in prompts.render(side, Question("a", "d", ("x",) * 3))
        video = prompts.render(side, Question("", "d", ("x",) * 8, True))
        assert "8 frames in order" in video and "(no words)" in video
    assert prompts.render("query", Question("a", "d")) != prompts.render(
        "target", Question("a", "d")
    )


def test_prompts_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "system: be brief\nquery: 'Q {{ text }}'\ntarget: 'T {{ text }}'\n"
        "sources:\n  llava*: {query: 'V {{ text }} {{ dataset }}'}\n"
    )
    prompts = Prompts.load(path)
    assert prompts.render("query", Question("a", "cats")) == "Q a"
    assert prompts.render("query", Question("a", "llava_qa")) == "V a llava_qa"
    assert prompts.render("target", Question("a", "llava_qa")) == "T a"
    turns = messages("Q a", Question("a", "cats"), prompts.system, SentMedia(), "here")
    assert turns == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "Q a"}
    ]  # fmt: skip
    assert prompts.digest != Prompts.load().digest == Prompts.load(OURS).digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "wants a mapping"),
        ("query: '{{ text }}'", "wants a template 'target'"),
        ("query: '{{ text }}'\ntarget: '{{ txt }}'", "target: unknown value 'txt'"),
        ("query: '{{ text }}'\ntarget: 'no text'", "target: wants the text of the side"),
        ("query: '{{ text'\ntarget: '{{ text }}'", "query: unexpected end of template"),
        ("query: '{{ text }}'\ntarget: 5", "target: wants a text, got 5"),
        ("query: '{{ text }}'\ntarget: '{{ text }}'\nqueri: 1", "unknown key 'queri'"),
        ("query: '{{ text }}'\ntarget: '{{ text + images }}'", "target: "),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_prompts_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="prompts: ") as error:
        Prompts.load(path)
    assert message in str(error.value) and "mine.yaml" in str(error.value)


def test_a_template_cannot_reach_into_python(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("query: '{{ text.__class__.__mro__ }}'\ntarget: '{{ text }}'")
    with pytest.raises(ValueError, match="query"):
        Prompts.load(path)


def test_small_pictures_are_sent_as_they_are(tmp_path):
    for name, kind in (("a.png", "image/png"), ("a.jpg", "image/jpeg")):
        path = save(tmp_path / name, noise(60, 40))
        content = (tmp_path / name).read_bytes()
        for source in (path, content):
            assert decoded(image_uri(source, 10_000, 1 << 20, "w")) == (f"data:{kind}", content)


@pytest.mark.parametrize("name", ["a.webp", "a.bmp", "a.gif"])
def test_other_formats_become_jpeg(tmp_path, name):
    kind, content = decoded(image_uri(save(tmp_path / name, noise(60, 40)), 10_000, 1 << 20, "w"))
    assert kind == "data:image/jpeg"
    assert Image.open(io.BytesIO(content)).size == (60, 40)


def test_what_would_look_different_to_the_student_is_sent_as_it_sees_it(tmp_path):
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    _, content = decoded(image_uri(save(tmp_path / "clear.png", clear), 10_000, 1 << 20, "w"))
    assert np.asarray(Image.open(io.BytesIO(content))).min() > 250  # on white
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", noise(60, 40), exif=exif)
    _, content = decoded(image_uri(turned, 10_000, 1 << 20, "w"))
    image = Image.open(io.BytesIO(content))
    assert image.size == (60, 40) and image.getexif().get(0x0112, 1) == 1


def test_pixels_and_bytes_are_bounded(tmp_path):
    path = save(tmp_path / "large.png", noise(400, 300))
    _, content = decoded(image_uri(path, 30_000, 1 << 20, "w"))
    width, height = Image.open(io.BytesIO(content)).size
    assert 28_000 < width * height <= 30_000 and abs(width / height - 4 / 3) < 0.02
    for source in (path, (tmp_path / "large.png").read_bytes()):
        _, content = decoded(image_uri(source, 10**9, 20_000, "w"))
        assert 2_000 < len(content) <= 20_000
    with pytest.raises(MediaError, match="w: does not fit into 300 bytes"):
        image_uri(path, 10**9, 300, "w")


def test_tiny_pictures_are_enlarged_as_for_training(tmp_path):
    _, content = decoded(image_uri(save(tmp_path / "a.png", noise(7, 14)), 10_000, 1 << 20, "w"))
    assert Image.open(io.BytesIO(content)).size == (28, 56)


def test_media_stand_before_the_words_in_order(tmp_path):
    paths = tuple(
        save(tmp_path / f"{n}.png", Image.new("RGB", (30, 30), (n, 0, 0))) for n in range(3)
    )
    (turn,) = messages("words", Question("t", "d", paths), "", SentMedia(), "w")
    *pictures, words = turn["content"]
    assert words == {"type": "text", "text": "words"}
    sent = [decoded(part["image_url"]["url"])[1] for part in pictures]
    assert [np.asarray(Image.open(io.BytesIO(one)))[0, 0, 0] for one in sent] == [0, 1, 2]


def test_videos_are_frames_spread_evenly(tmp_path):
    paths = [
        save(tmp_path / f"{n:02}.png", Image.new("RGB", (60, 60), (10 * n,) * 3)) for n in range(20)
    ]
    limits = SentMedia(frames=4, frame_pixels=900)
    for media in (tuple(paths), (str(tmp_path),)):
        (turn,) = messages("words", Question("t", "d", media, True), "", limits, "w")
        frames = [
            Image.open(io.BytesIO(decoded(part["image_url"]["url"])[1]))
            for part in turn["content"][:-1]
        ]
        assert [frame.size for frame in frames] == [(30, 30)] * 4
        shades = [int(np.asarray(frame).mean().round()) for frame in frames]
        assert np.abs(np.array(shades) - [0, 60, 120, 190]).max() <= 2


def test_damaged_media_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(MediaError, match="^record 3, query, image 0: not an image"):
        messages(
            "w", Question("t", "d", (str(tmp_path / "a.jpg"),)), "", SentMedia(), "record 3, query"
        )


def test_bare_texts():
    human = f"<image>\nWhat is it?\n<disc_emb>\n{GENERATION_INSTRUCTION}"
    assert bare_text(human) == "What is it?"
    assert bare_text("<video>a \n<disc_emb>\nb") == "a"
    assert bare_text("plain <b>") == "plain <b>"
    assert question(Side("t", video=["a", "b"]), "d") == Question("t", "d", ("a", "b"), True)


def test_records_are_read_back_as_they_were_meant():
    def named(path):
        return path.removeprefix("/root/")

    bare = Pair(
        "d", Side("what", images=["/root/a.jpg"]), Side("", video=["/root/1.jpg", "/root/2.jpg"])
    )
    record = sft_record(bare, ["<think>r</think><answer>s\n<gen_emb>", "T"], named)
    pair = sft_pair(record, "w", "/root", "x")
    assert pair.query.text == f"<image>\nwhat\n<disc_emb>\n{GENERATION_INSTRUCTION}"
    assert pair.query.response == "<think>r</think><answer>s\n<gen_emb>"
    assert (pair.query.images, pair.target.video) == (bare.query.images, bare.target.video)
    assert pair.target.text == f"<video>\n\n<disc_emb>\n{GENERATION_INSTRUCTION}"

    # a record that has its human turns, negatives and ids keeps them
    negative = Side("<image>n\n<disc_emb>\n", "N", ["/root/n.jpg"])
    whole = Pair("d", pair.query, Side("t\n<disc_emb>\n", "old"), [negative], "seven")
    again = sft_pair(sft_record(whole, ["Q", "T"], named), "w", "/root", "x")
    assert again.query.text == pair.query.text and again.query.response == "Q"
    assert again.target.text == f"t\n<disc_emb>\n{GENERATION_INSTRUCTION}"
    assert again.negatives[0].images == ["/root/n.jpg"] and again.negatives[0].response == "N"
    assert again.target_id == "seven"
