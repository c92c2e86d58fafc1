"""Frames of videos: which ones, from where, and what may go wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umer1.media import MediaError, decoders, has_separate_frames, load_video, videos
from umer1.media.videos import frame_places


def frame(value, size=(64, 48)):
    return Image.new("RGB", size, (value, value, value))


def shades(frames):
    """The grey of each frame in steps of 10: with 10 per frame, its number."""
    return [round(np.asarray(image).mean() / 10) for image in frames]


def write_video(path, count=20, *, format=None, codec="mpeg4", rate=10):
    av = pytest.importorskip("av")
    with av.open(path, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_image(frame(number * 10))))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(str(tmp_path_factory.mktemp("clips") / "clip.mp4"))


# --- lists and directories of frames ---


def test_a_list_is_used_as_it_is():
    frames = [frame(value) for value in (0, 10, 20)]
    assert shades(load_video(frames)) == [0, 1, 2]
    assert shades(load_video(tuple(frames))) == [0, 1, 2]
    assert shades(load_video(np.stack([np.asarray(image) for image in frames]))) == [0, 1, 2]


def test_a_long_list_is_thinned_as_in_vlm2vec():
    frames = [frame(value * 10) for value in range(20)]
    expected = np.linspace(0, 19, 8, dtype=int).tolist()
    assert expected == [0, 2, 5, 8, 10, 13, 16, 19]
    assert shades(load_video(frames)) == expected
    assert shades(load_video(frames, num_frames=1)) == [0]


def test_a_directory_is_read_in_natural_order(tmp_path):
    for number in range(12):
        frame(number * 10).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert shades(load_video(tmp_path, num_frames=12)) == list(range(12))
    assert shades(load_video(str(tmp_path), num_frames=3)) == [0, 5, 11]


def test_only_the_frames_that_are_used_are_opened(tmp_path):
    names = [tmp_path / f"{number}.png" for number in range(9)]
    for number in (0, 8):
        frame(number).save(names[number])
    assert len(load_video(names, num_frames=2)) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "^item 3, field 'video': a video of no frames"),
        ([frame(0), "missing.png"], "^item 3, field 'video', frame 1: no such file: missing.png"),
        ([frame(0), frame(0, (8, 8))], r"frame 0 of \(64, 48\) and frame 1 of \(8, 8\)"),
        ("missing.mp4", "^item 3, field 'video': no such file: missing.mp4"),
        (3, "wants a list of frames, a path, a URI or bytes, got int"),
        (frame(0), "got Image"),
        (b"hello", "cannot decode the video .*: 5 bytes"),
        (b"", "cannot decode the video"),
    ],
)
def test_bad_videos(source, message):
    with pytest.raises(MediaError, match=message):
        load_video(source, "item 3, field 'video'")


def test_a_directory_without_frames(tmp_path):
    with pytest.raises(MediaError, match="no frames .* in the directory"):
        load_video(tmp_path)


def test_which_sources_have_separate_frames(tmp_path, clip):
    assert has_separate_frames([frame(0)]) and has_separate_frames(tmp_path)
    assert not has_separate_frames(clip) and not has_separate_frames(b"")
    assert not has_separate_frames("http://host/video.mp4")


# --- video files ---


def test_places_are_those_of_qwen_vl_utils():
    assert frame_places(20, 10.0, 8) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert frame_places(5, 10.0, 8) == [0, 1, 2, 3, 4]
    assert frame_places(20, 10.0, 8, fps=2.0) == [0, 6, 13, 19]
    smart_nframes = pytest.importorskip("qwen_vl_utils.vision_process").smart_nframes
    for total, rate, fps in [(20, 10, 2), (100, 25, 1), (9, 3, 2), (7, 30, 2), (5000, 30, 30)]:
        expected = smart_nframes({"fps": fps}, total, rate)
        assert len(frame_places(total, rate, 8, fps)) == expected


def test_a_video_without_a_frame_rate():
    with pytest.raises(MediaError, match="without a frame rate"):
        frame_places(20, 0.0, 8, fps=1.0)


@pytest.mark.parametrize("form", ["path", "uri", "bytes"])
def test_files(clip, form):
    data = Path(clip).read_bytes()
    source = {"path": clip, "uri": f"file://{clip}", "bytes": data}[form]
    frames = load_video(source)
    assert shades(frames) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert all(image.mode == "RGB" and image.size == (64, 48) for image in frames)
    assert shades(load_video(source, num_frames=20)) == list(range(20))


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi"])
def test_containers_with_and_without_a_frame_count(tmp_path, name):
    assert shades(load_video(write_video(str(tmp_path / name)))) == [0, 3, 5, 8, 11, 14, 16, 19]


@pytest.mark.parametrize(("name", "kept"), [("clip.avi", 0.5), ("clip.mp4", 0.6)])
def test_a_video_cut_short_is_an_error(tmp_path, name, kept):
    data = Path(write_video(str(tmp_path / name))).read_bytes()
    with pytest.raises(MediaError, match="cut short|cannot decode|no video in the file"):
        load_video(data[: int(len(data) * kept)])


def test_a_header_that_promises_many_more_frames(clip, monkeypatch):
    monkeypatch.setattr(decoders, "_header", lambda *_: (30, 10.0))
    with pytest.raises(MediaError, match="^video: cut short: 20 of 30 frames: .*clip.mp4"):
        load_video(clip)


def test_a_header_that_promises_a_frame_too_many(clip, monkeypatch):
    monkeypatch.setattr(decoders, "_header", lambda *_: (21, 10.0))
    assert shades(load_video(clip)) == [0, 3, 5, 8, 11, 14, 16, 19]


def test_a_video_of_no_frames(clip, monkeypatch):
    monkeypatch.setattr(decoders, "_header", lambda *_: (0, 10.0))
    monkeypatch.setattr(decoders, "_take", lambda *_: ([], 0))
    with pytest.raises(MediaError, match="^video: a video of no frames: .*clip.mp4"):
        load_video(clip)


def test_a_file_without_a_picture_stream(tmp_path):
    av = pytest.importorskip("av")
    path = str(tmp_path / "tone.wav")
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(MediaError, match="no video in the file"):
        load_video(path)


def test_frames_that_are_too_large(clip, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(MediaError, match="frames of 64 x 48 pixels, wants at most 1000"):
        load_video(clip)


def test_a_playlist_opens_nothing_else(tmp_path):
    """FFmpeg would follow the address inside: any file or host."""
    write_video(str(tmp_path / "part.ts"), format="mpegts", codec="mpeg2video")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nfile://{tmp_path}/part.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError, match="cannot decode"):
        load_video(playlist)


def test_without_a_decoder(clip, monkeypatch):
    monkeypatch.setattr(videos, "video_decoder", lambda: None)
    message = "^video: video files need PyAV (pip install av) or torchcodec; "
    with pytest.raises(MediaError, match=message.replace("(", r"\(").replace(")", r"\)")):
        load_video(clip)
    assert len(load_video([frame(0)])) == 1


def test_which_decoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # import fails
    monkeypatch.setitem(sys.modules, "av", None)
    assert decoders.video_decoder.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    pytest.importorskip("av")
    assert decoders.video_decoder.__wrapped__() is decoders.av_frames


def test_torchcodec_reads_the_same_frames(clip):
    pytest.importorskip("torchcodec")
    with open(clip, "rb") as file:
        frames = decoders.torchcodec_frames(file, lambda *video: frame_places(*video, 8), 1e9)
    assert shades(frames) == [0, 3, 5, 8, 11, 14, 16, 19]


def test_importing_media_needs_no_decoder():
    code = "import sys, umer1.processor; sys.exit(bool({'av', 'torchcodec'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
