"""Files that want to be taken for pictures and clips, against the real server: row by row what it
answers. Each is (file, declared media type, code, part of the message); the status is 400."""

import pytest

PICTURES = {
    "svg as svg": ("svg", "image/svg+xml", "media_unsupported", "media type 'image/svg+xml'"),
    "svg as png": ("svg", "image/png", "media_unsupported", "an SVG drawing"),
    "page": ("html", "image/png", "media_unsupported", "a page or XML"),
    "page, declared": ("html", "text/html", "media_unsupported", "media type 'text/html'"),
    "pdf": ("pdf", "image/jpeg", "media_unsupported", "a PDF document"),
    "postscript": ("postscript", "image/png", "media_unsupported", "a PostScript program"),
    "zip archive": ("zip", "image/png", "media_unsupported", "a zip archive"),
    "format that is not served": ("ppm", "image/png", "media_unsupported", "an unknown kind"),
    "nothing": ("empty", "image/png", "media_damaged", "a data URI without data"),
    "zeros": ("zeros", "image/png", "media_unsupported", "no data but zeros"),
    "no media type": ("good.png", "", "media_unsupported", "the media type ''"),
    "png as jpeg": ("good.png", "image/jpeg", "media_unsupported", "but the data are png"),
    "clip as picture": ("good.mp4", "image/png", "media_unsupported", "a mp4 file, wants image"),
    "avif": ("avif", "image/png", "media_unsupported", "an unknown kind"),
    "png cut short": ("cut.png", "image/png", "media_damaged", "cut short"),
    "jpeg cut short": ("cut.jpg", "image/jpeg", "media_damaged", "cut short"),
    "webp cut short": ("cut.webp", "image/webp", "media_damaged", "cut short"),
    "gif cut short": ("cut.gif", "image/gif", "media_damaged", "cut short"),
    "bmp cut short": ("cut.bmp", "image/bmp", "media_damaged", "cut short"),
    "tiff cut short": ("cut.tiff", "image/tiff", "bad_input", "truncated or damaged image"),
    "decompression bomb": ("bomb.png", "image/png", "media_too_large", "12000 x 12000 pixels"),
    "bomb in its header": ("lie.png", "image/png", "media_too_large", "200000 x 200000 pixels"),
    "one side too long": ("wide.png", "image/png", "media_too_large", "20000 along a side"),
    "rows missing": ("half.png", "image/png", "bad_input", "truncated or damaged image"),
    "second header": ("two_headers.png", "image/png", "media_damaged", "broken chunks"),
    "wrong checksum": ("bad_check.png", "image/png", "bad_input", "damaged image"),
    "jpeg of 65535 squared": ("huge.jpg", "image/jpeg", "media_too_large", "65535 x 65535"),
    "jpeg of 200 scans": ("scans.jpg", "image/jpeg", "media_too_large", "more than 100 scans"),
    "gif frame beyond its screen": ("frame.gif", "image/gif", "media_too_large", "60000 x 60000"),
    "webp canvas": ("huge.webp", "image/webp", "media_too_large", "16384 x 16384"),
    "bmp": ("huge.bmp", "image/bmp", "media_too_large", "100000 x 100000"),
    "tiff": ("huge.tiff", "image/tiff", "media_too_large", "tiff"),
    "tiff that loops": ("loop.tiff", "image/tiff", "media_damaged", "broken header"),
    "png and zip": ("zip.png", "image/png", "media_unsupported", "also a zip archive"),
    "png and page": ("html.png", "image/png", "media_unsupported", "also a page"),
    "jpeg and zip": ("zip.jpg", "image/jpeg", "media_unsupported", "also a zip archive"),
    "script in a comment": ("comment.jpg", "image/jpeg", "media_unsupported", "also a page"),
    "gif and script": ("script.gif", "image/gif", "media_damaged", "gif file"),
    "gif and zip": ("zip.gif", "image/gif", "media_unsupported", "also a zip archive"),
    "tiff and zip": ("zip.tiff", "image/tiff", "media_unsupported", "also a zip archive"),
}
CLIPS = {
    "picture as clip": ("good.png", "video/mp4", "media_unsupported", "a png file, wants video"),
    "webm as mp4": ("good.webm", "video/mp4", "media_unsupported", "but the data are webm"),
    "playlist": ("playlist", "video/mp4", "media_unsupported", "a playlist"),
    "playlist, declared": ("playlist", "audio/x-mpegurl", "media_unsupported", "media type"),
    "list of files": ("concat", "video/mp4", "media_unsupported", "an unknown kind"),
    "avif as clip": ("avif", "video/mp4", "media_unsupported", "an unknown kind"),
    "mp4 cut short": ("cut.mp4", "video/mp4", "media_damaged", "cut short"),
    "webm cut short": ("cut.webm", "video/webm", "media_damaged", "cut short"),
    "mp4 and zip": ("zip.mp4", "video/mp4", "media_unsupported", "also a zip archive"),
    "webm and page": ("html.webm", "video/webm", "media_unsupported", "also a page"),
    "sound alone": ("sound.mov", "video/quicktime", "media_unsupported", "wants one video stream"),
    "too many frames": ("many.mp4", "video/mp4", "media_too_large", "more than 100 frames"),
    "too long": ("long.mp4", "video/mp4", "media_too_large", "300 s, wants at most 60"),
    "frames too large": ("large.mp4", "video/mp4", "media_too_large", "4112 x 2304 pixels"),
    "frames that grow": ("grows.webm", "video/webm", "bad_input", "cannot decode the video"),
}


def message(*parts):
    return {"json": {"mode": "disc", "messages": [{"role": "user", "content": list(parts)}]}}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_refused(server, uri, name):
    file, declared, code, fragment = PICTURES[name]
    part = {"type": "image_url", "image_url": {"url": uri(file, declared)}}
    server.check_refused(message(part), 400, code, fragment)


@pytest.mark.parametrize("name", CLIPS)
def test_clip_is_refused(server, uri, name):
    file, declared, code, fragment = CLIPS[name]
    part = {"type": "video_url", "video_url": {"url": uri(file, declared)}}
    server.check_refused(message(part), 400, code, fragment)


def test_too_many_visual_tokens(server, uri):
    clip = {"type": "video", "video": uri("hundred.mp4", "video/mp4"), "nframes": 100}
    server.check_refused(message(clip), 400, "media_too_large", "visual tokens, wants at most 180")


def test_too_many_pictures(server, uri):
    picture = {"type": "image", "image": uri("good.png", "image/png")}
    server.check_refused(message(*[picture] * 5), 400, "too_many_media", "5 pictures and clips")


def test_good_media_pass_and_give_the_offline_vectors(server, offline, uri, hostile_file):
    """What is refused above is refused for its own sake."""
    for kind, file, declared in (
        ("image", "good.png", "image/png"),
        ("image", "good.jpg", "image/jpg"),
        ("video", "good.mp4", "video/mp4"),
        ("video", "good.webm", "video/webm"),
    ):
        answer = server.ask(message({"type": kind, kind: uri(file, declared)}))
        assert answer.status_code == 200, answer.text
        content = [{"type": kind, kind: hostile_file(file)}]
        expected = offline.encode(
            [[{"role": "user", "content": content}]], mode="disc", progress=False
        )
        assert answer.json()["data"][0]["embedding"] == expected.disc[0].tolist()
