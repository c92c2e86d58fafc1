"""Files that want to hurt, made when they are first asked for."""

import base64
import io
import struct
import zipfile
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


@pytest.fixture(scope="session")
def uri():
    """(name of a file, media type) -> its data URI."""
    return lambda name, declared: f"data:{declared};base64,{base64.b64encode(_file(name)).decode()}"


@pytest.fixture(scope="session")
def hostile_file():
    """The bytes of a file by name."""
    return _file


_MADE = {}


def _file(name):
    if name not in _MADE:
        _MADE[name] = FILES[name]()
    return _MADE[name]


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, rows=None, lost=0):
    """A black picture; `rows`: so many of them are there; `lost`: bytes missing of the data."""
    rows = height if rows is None else rows
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 7) // 8 + 1) * rows, 0 if lost else 9)
    data = data[: len(data) - lost]
    chunks = [_chunk(b"IHDR", head), _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _picture(name, **options):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, name, **options)
    return file.getvalue()


def _cut(data):
    return data[: len(data) * 2 // 3]


def _changed(data, place, new):
    return data[:place] + new + data[place + len(new) :]


def _zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.txt", "x")
    return file.getvalue()


def _clip(form, codec, frames=6, size=(64, 48), rate=10, then=()):
    """A video file; `then`: sizes of further key frames that its header does not speak of."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for packet in _packets(stream, size, range(frames), rate):
            container.mux(packet)
        for number, other in enumerate(then):
            context = av.CodecContext.create(codec, "w")
            context.width, context.height, context.pix_fmt = *other, "yuv420p"
            context.time_base, context.framerate = Fraction(1, rate), Fraction(rate)
            for packet in _packets(context, other, [frames + number], rate):
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def _packets(encoder, size, places, rate):
    for place in places:
        frame = av.VideoFrame(*size, "yuv420p")
        frame.pts, frame.time_base = place, 1 / Fraction(rate)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 160), np.int16), "s16", "mono")
        frame.rate, frame.pts = 16000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def _many_scans():
    data = _picture("JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff", start + 2)]
    return data[:start] + scan * 200 + data[start:]


FILES = {
    "good.png": lambda: _png(20, 20),
    "good.jpg": lambda: _picture("JPEG"),
    "good.mp4": lambda: _clip("mp4", "mpeg4"),
    "good.webm": lambda: _clip("webm", "libvpx"),
    "empty": lambda: b"",
    "zeros": lambda: bytes(1000),
    "svg": lambda: SVG,
    "html": lambda: b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "pdf": lambda: b"%PDF-1.7\n1 0 obj\n",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
    "zip": _zip,
    "ppm": lambda: b"P6 4 4 255\n" + bytes(48),
    "playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "avif": lambda: struct.pack(">I", 32) + b"ftypavif" + bytes(20),
    "cut.png": lambda: _cut(_png(200, 200)),
    "cut.jpg": lambda: _cut(_picture("JPEG")),
    "cut.webp": lambda: _cut(_picture("WEBP")),
    "cut.gif": lambda: _cut(_picture("GIF")),
    "cut.bmp": lambda: _cut(_picture("BMP")),
    "cut.tiff": lambda: _cut(_picture("TIFF")),
    "cut.mp4": lambda: _cut(_clip("mp4", "mpeg4")),
    "cut.webm": lambda: _cut(_clip("webm", "libvpx")),
    "bomb.png": lambda: _png(12000, 12000),
    "lie.png": lambda: _png(200_000, 200_000, rows=1),
    "wide.png": lambda: _png(40_000, 2),
    "half.png": lambda: _png(100, 100, lost=900),
    "two_headers.png": lambda: _changed(
        _png(20, 20), 33, _chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
    ),
    "bad_check.png": lambda: _changed(_png(20, 20), 45, b"\xff\xff\xff"),
    "huge.jpg": lambda: _changed(
        data := _picture("JPEG"), data.index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff"
    ),
    "scans.jpg": _many_scans,
    "frame.gif": lambda: _changed(
        data := _picture("GIF"), data.index(b",\0\0\0\0") + 5, b"\x60\xea\x60\xea"
    ),
    "huge.webp": lambda: (
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + b"\xff\x3f\0\xff\x3f\0"
    ),
    "huge.bmp": lambda: _changed(_picture("BMP"), 18, struct.pack("<ii", 100_000, -100_000)),
    "huge.tiff": lambda: _tiff(100_000, 100_000),
    "loop.tiff": lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "zip.png": lambda: _png(20, 20) + _zip(),
    "html.png": lambda: _png(20, 20) + b"<html><script>alert(1)</script>",
    "zip.jpg": lambda: _picture("JPEG") + _zip(),
    "comment.jpg": lambda: _picture("JPEG", comment=b"<script>alert(1)</script>"),
    "script.gif": lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)//",
    "zip.gif": lambda: _picture("GIF") + _zip(),
    "zip.tiff": lambda: _picture("TIFF") + _zip(),
    "zip.mp4": lambda: _clip("mp4", "mpeg4") + _zip(),
    "html.webm": lambda: _clip("webm", "libvpx") + b"<html>",
    "sound.mov": _sound,
    "many.mp4": lambda: _clip("mp4", "mpeg4", frames=101, size=(16, 16)),
    "long.mp4": lambda: _clip("mp4", "mpeg4", frames=3, rate=Fraction(1, 100)),
    "large.mp4": lambda: _clip("mp4", "mpeg4", frames=1, size=(4112, 2304)),
    "grows.webm": lambda: _clip("webm", "libvpx", frames=3, then=[(1200, 1200)]),
    "hundred.mp4": lambda: _clip("mp4", "mpeg4", frames=100, size=(160, 160)),
}


def _tiff(width, height):
    fields = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    fields += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 100)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + bytes(4)
