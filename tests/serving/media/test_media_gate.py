"""What the gate lets in is what came; what it counts; and that no damaged file gets further."""

import asyncio
import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from umer1.media import EVALUATION_LIMITS, MediaError, load_image
from umer1.prompts import Item, Medium
from umer1.serving.errors import ApiError
from umer1.serving.media.checks import GateLimits, check_picture, check_video
from umer1.serving.media.gate import MediaGate
from umer1.serving.media.picture_headers import picture_outline
from umer1.serving.media.refusals import MediaRefused
from umer1.serving.settings import ServerSettings

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8))
FORMS = {
    "png": ("PNG", {}),
    "png, palette": ("PNG", {"mode": "P"}),
    "png, moving": ("PNG", {"save_all": True, "append_images": [NOISE.rotate(90)]}),
    "jpeg": ("JPEG", {}),
    "jpeg, progressive": ("JPEG", {"progressive": True}),
    "jpeg, grey": ("JPEG", {"mode": "L"}),
    "jpeg, four colours": ("JPEG", {"mode": "CMYK"}),
    "jpeg, with notes": ("JPEG", {"comment": b"a note", "icc_profile": b"x" * 70_000}),
    "webp": ("WEBP", {}),
    "webp, lossless": ("WEBP", {"lossless": True}),
    "webp, with alpha": ("WEBP", {"mode": "RGBA"}),
    "webp, moving": ("WEBP", {"save_all": True, "append_images": [NOISE]}),
    "gif": ("GIF", {}),
    "gif, moving": ("GIF", {"save_all": True, "append_images": [NOISE.rotate(180)]}),
    "bmp": ("BMP", {}),
    "bmp, two colours": ("BMP", {"mode": "1"}),
    "tiff": ("TIFF", {}),
    "tiff, packed": ("TIFF", {"compression": "tiff_lzw"}),
}


def picture(name):
    form, options = FORMS[name]
    options = dict(options)
    file = io.BytesIO()
    NOISE.convert(options.pop("mode", "RGB")).save(file, form, **options)
    return file.getvalue()


def uri(data, declared):
    return f"data:{declared};base64,{base64.b64encode(data).decode()}"


def opened(gate, *urls, kind="image"):
    """The sources of an item with these media."""
    media = tuple(Medium(kind, url, f"item 0, medium {place}") for place, url in enumerate(urls))
    item = asyncio.run(gate.request().open_item(Item("a", media, (*media, "a"))))
    # the layout holds the same media as the list
    assert [id(part) for part in item.layout[:-1]] == [id(medium) for medium in item.media]
    return [medium.source for medium in item.media]


@pytest.fixture
def gate():
    return MediaGate(ServerSettings())


@pytest.mark.parametrize("name", FORMS)
def test_good_pictures_come_out_as_they_went_in(gate, name):
    data = picture(name)
    declared = f"image/{name.partition(',')[0]}"
    assert opened(gate, uri(data, declared), uri(data, declared.upper())) == [data, data]
    if not name.startswith("tiff"):
        outline = picture_outline(data, name.partition(",")[0])
        assert (outline.width, outline.height, outline.end) == (*NOISE.size, len(data))


def test_what_cameras_put_behind_a_jpeg(gate):
    """Further pictures, a clip, notes: not an archive or a page."""
    data = picture("jpeg")
    for tail in (picture("jpeg"), b"\0\0\0\x18ftypmp42" + bytes(99), b"SEFH\x01\0", bytes(40)):
        assert opened(gate, uri(data + tail, "image/jpeg")) == [data + tail]
    for tail in (b"PK\x03\x04", b"<SCRIPT>", b"%PDF-1.4", b"\x7fELF"):
        with pytest.raises(ApiError, match="something else after its end"):
            opened(gate, uri(data + tail, "image/jpeg"))


def test_frames_of_a_video_are_pictures(gate):
    data = picture("png")
    frames = [uri(data, "image/png")] * 3
    assert opened(gate, frames, kind="video") == [[data] * 3]
    with pytest.raises(ApiError, match="item 0, medium 0, frame 3: a source that is no data URI"):
        opened(gate, [*frames, "/etc/passwd"], kind="video")


def test_one_medium_by_itself(gate):
    data = picture("gif")
    assert asyncio.run(gate.open("image", uri(data, "image/gif"), "picture")) == data
    with pytest.raises(ApiError, match="^picture: ") as error:
        asyncio.run(gate.open("image", "http://8.8.8.8/x.png", "picture"))
    assert (error.value.status, error.value.code) == (400, "media_url_refused")
    assert error.value.param == "picture"


def test_media_of_a_request_are_counted_together():
    data = picture("bmp")
    limits = GateLimits(request_bytes=3 * len(data), request_media=9)
    gate = MediaGate(ServerSettings(), limits=limits)
    source = uri(data, "image/bmp")
    assert len(opened(gate, *[source] * 3)) == 3
    with pytest.raises(ApiError, match="medium 3: .* bytes of data, wants at most 0"):
        opened(gate, *[source] * 4)
    small = uri(picture("webp"), "image/webp")
    with pytest.raises(ApiError, match="medium 9: more than 9 media in one request"):
        opened(MediaGate(ServerSettings(), limits=GateLimits(request_media=9)), *[small] * 10)


def test_data_are_measured_before_they_are_decoded(gate, monkeypatch):
    monkeypatch.setattr("base64.b64decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ApiError, match="wants at most 33554432"):
        opened(gate, "data:image/png;base64," + "A" * (46 << 20))


def test_visual_tokens_are_counted_before_decoding():
    """28 x 28 pixels each, after resizing to what the model takes."""
    count = lambda size, **settings: check_picture(
        _blank(*size), "image/png", Medium("image", "", **settings), GateLimits(), EVALUATION_LIMITS
    )
    assert count((28, 28)) in (1, 2)
    assert 100 <= count((280, 280)) <= 111
    assert count((5000, 5000)) == 3010  # image_max_pixels
    assert count((5000, 5000), max_pixels=784 * 50) == 50
    assert count((28, 28), min_pixels=784 * 50) >= 50


def _blank(width, height):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(list(FORMS)),
    place=st.floats(0, 1),
    new=st.binary(max_size=8),
    cut=st.booleans(),
)
def test_damaged_pictures_are_refused_or_harmless(name, place, new, cut):
    """The checks raise nothing but their own error; what they let in decodes to the size that they
    read, or raises MediaError."""
    data = picture(name)
    start = int(place * len(data))
    data = data[:start] + new + (b"" if cut else data[start + len(new) :])
    form = name.partition(",")[0]
    limits = GateLimits(image_pixels=10_000)
    try:
        check_picture(data, f"image/{form}", Medium("image", ""), limits, EVALUATION_LIMITS)
    except MediaRefused:
        return
    try:
        width, height = load_image(data).size
    except MediaError:
        return
    assert width * height <= 10_000


@pytest.fixture(scope="module")
def clips():
    """MP4 and WebM, 12 frames."""
    av = pytest.importorskip("av")
    made = {}
    for form, codec in (("mp4", "mpeg4"), ("webm", "libvpx")):
        file = io.BytesIO()
        with av.open(file, "w", format=form) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for number in range(12):
                pixels = np.full((32, 48, 3), 20 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        made[form] = file.getvalue()
    return made


@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_damaged_clips_are_refused(clips, form):
    """Bytes changed all over the file: the checks raise nothing but their own error."""
    data, random = clips[form], np.random.default_rng(0)
    medium = Medium("video", "")
    check = lambda data: check_video(data, None, medium, GateLimits(), EVALUATION_LIMITS)
    assert check(data) > 0
    refused = 0
    for _ in range(150):
        start = int(random.integers(len(data)))
        changed = bytearray(data)
        changed[start : start + 4] = random.bytes(4)
        try:
            check(bytes(changed[: len(data)]))
        except MediaRefused:
            refused += 1
    assert refused > 0
    for end in range(0, len(data), 97):
        with pytest.raises(MediaRefused):
            check(data[:end])
