"""`umer1 eval prepare`: pages out of corpus tables, frames out of video files, and nothing else."""

import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from umer1.evaluation import load_tasks, require_media
from umer1.evaluation.prepare import _every, _spread, prepare


@pytest.fixture
def pages(tmp_path, encoded_picture):
    """A vidore and a visrag task whose pages are in their tables alone. Their folder's parent is the test's own."""
    root = tmp_path / "root"

    def write(ids=(7, 8), bad=None):
        names = {"vidore": list(ids), "visrag": [f"{page}.jpg" for page in ids]}
        entries = {}
        for parser, pages in names.items():
            pictures = [{"bytes": encoded_picture("PNG", (at, 9, 9))} for at in range(len(pages))]
            if bad is not None:
                pictures[-1] = {"bytes": bad}
            rows = {
                "queries": [{"query-id": 0, "query": "q"}],
                "qrels": [{"query-id": 0, "corpus-id": pages[0], "score": 1}],
                "corpus": [
                    {"corpus-id": page, "image": picture}
                    for page, picture in zip(pages, pictures, strict=True)
                ],
            }
            for name, table in rows.items():
                folder = root / "tables" / parser / name
                folder.mkdir(parents=True, exist_ok=True)
                pyarrow.parquet.write_table(
                    pyarrow.Table.from_pylist(table), folder / "test.parquet"
                )
            entries[parser] = {"dataset_parser": parser, "image_root": f"pages/{parser}"}
            entries[parser]["data_path"] = f"tables/{parser}"
        (root / "visdoc.yaml").write_text(json.dumps(entries))
        return root

    return write


def test_pages_are_written_once(pages):
    root = pages()
    written = prepare(root, progress=False)
    assert written == {name: {"pages": 2, "videos": 0} for name in ("vidore", "visrag")}
    tasks = load_tasks(root)
    require_media(tasks)
    with Image.open(root / "pages/vidore/8.png") as page:
        assert (page.format, page.getpixel((0, 0))) == ("PNG", (1, 9, 9))
    with Image.open(tasks[1].candidates["7.jpg"]["image"]) as page:
        assert page.format == "JPEG"
    (root / "pages/vidore/8.png").write_bytes(b"mine")
    (root / "pages/vidore/7.png").unlink()
    assert prepare(root, progress=False)["vidore"] == {"pages": 1, "videos": 0}
    assert (root / "pages/vidore/8.png").read_bytes() == b"mine"


def test_names_that_lead_out_of_the_folder_are_refused(pages):
    root = pages(ids=("a", "../../b"))
    with pytest.raises(ValueError, match=r"vidore: the table's name '../../b.png' leads out of"):
        prepare(root, progress=False)
    assert not list(root.parent.rglob("b.png"))


def test_bad_pictures_are_one_error_and_leave_no_file(pages):
    for bad, message in (
        (b"no picture", "vidore, page 8: not an image"),
        (None, "page 8 has no"),
    ):
        root = pages(bad=bad or b"")
        if bad is None:
            table = root / "tables/vidore/corpus/test.parquet"
            rows = [{"corpus-id": page, "image": None} for page in (7, 8)]
            kind = pyarrow.struct([("bytes", pyarrow.binary())])
            schema = pyarrow.schema([("corpus-id", pyarrow.int64()), ("image", kind)])
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), table)
        with pytest.raises(ValueError, match=message):
            prepare(root, names=["vidore"], progress=False)
        assert not (root / "pages/vidore/8.png").exists()


def video(frames: int) -> bytes:
    """An MJPEG video whose frame n is n * 2 bright."""
    av = pytest.importorskip("av")
    content = io.BytesIO()
    with av.open(content, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for number in range(frames):
            picture = Image.new("RGB", (32, 32), (number * 2,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return content.getvalue()


def brightness(path):
    with Image.open(path) as picture:
        return picture.convert("L").getpixel((16, 16))


def test_frames_of_videos_that_have_none(tmp_path):
    rows = {
        "msvd": {"video_id": "v", "video": "v.mp4", "caption": ["c"]},
        "activitynetqa": {"video_name": "v", "question": "q", "answer": "no", "question_id": 1},
    }
    entries, files = {}, {"msvd": "v.mp4", "activitynetqa": "v_v.mp4"}
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
        (tmp_path / f"videos/{name}").mkdir(parents=True)
        (tmp_path / f"videos/{name}/{files[name]}").write_bytes(video(100))
        entries[name] = {
            "dataset_parser": name,
            "video_root": f"videos/{name}",
            "frame_root": f"frames/{name}",
            "data_path": f"{name}.jsonl",
            "max_frames_saved": 8,
        }
    (tmp_path / "video.yaml").write_text(json.dumps(entries))
    # an empty directory is one without frames
    (tmp_path / "frames/msvd/v").mkdir(parents=True)
    written = prepare(tmp_path, progress=False)
    assert written == {name: {"pages": 0, "videos": 1} for name in rows}
    spread = sorted((tmp_path / "frames/msvd/v").iterdir())
    every = sorted((tmp_path / "frames/activitynetqa/v_v").iterdir())
    assert [path.name for path in spread] == [f"frame_{at:04d}.jpg" for at in range(1, 9)]
    assert [path.name for path in every] == [f"{at:04d}.jpeg" for at in range(8)]
    for paths, step in ((spread, 12.5), (every, 12)):
        for at, path in enumerate(paths):
            assert abs(brightness(path) - int(at * step) * 2) <= 3
    require_media(load_tasks(tmp_path))
    assert prepare(tmp_path, progress=False)["msvd"] == {"pages": 0, "videos": 0}


def test_a_broken_video_leaves_nothing(tmp_path):
    row = {"video_id": "v", "video": "v.mp4", "caption": ["c"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "v.mp4").write_bytes(b"no video")
    entry = {"dataset_parser": "msvd", "video_root": ".", "frame_root": "f"}
    entry["data_path"] = "rows.jsonl"
    (tmp_path / "video.yaml").write_text(json.dumps({"m": entry}))
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"m, .*v\.mp4: "):
        prepare(tmp_path, progress=False)
    assert not (tmp_path / "f").exists()


def test_which_frames_upstream_takes():
    assert _spread(5, 8) == [0, 1, 2, 3, 4]
    assert _spread(130, 64)[:4] == [0, 2, 4, 6]
    assert _spread(130, 64)[-1] == 127
    assert _every(130, 64) == list(range(0, 128, 2))
    assert _every(100, 64) == list(range(64))
