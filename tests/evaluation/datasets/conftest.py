"""All 81 entries of MMEB-V2 with two or three rows each: VLM2Vec's directories of media, and the
tables in the hub's formats (Parquet, Arrow, JSON, JSON lines) in folders named as its repositories.
"""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from umer1.evaluation import benchmark

TEST = "test-00000-of-00001.parquet"


@pytest.fixture(scope="session")
def mmeb_v2(tmp_path_factory):
    """`.data` and `.tables`: the data directory and the hub map. Read it, do not change it."""
    root = tmp_path_factory.mktemp("mmeb_v2")
    place = SimpleNamespace(data=root / "data", tables=root / "tables")
    for entry in benchmark.entries().values():
        {"image": _image_task, "video": _video_task, "visdoc": _page_task}[entry.modality](
            place, entry
        )
    return place


@pytest.fixture(scope="session")
def encoded_picture():
    return encoded


def encoded(kind="JPEG", colour=(200, 40, 40), size=(32, 32)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, kind)
    return content.getvalue()


def _image_task(place, entry):
    folder = place.data / "image-tasks" / entry.name
    for number in range(4):
        _picture(folder / f"{number}.jpg")
    here = [f"{entry.name}/{number}.jpg" for number in range(4)]
    texts = {"image_cls": True, "image_i2t": True, "image_qa": True}.get(entry.parser, False)
    captioned = entry.name in ("WebQA", "EDIS", "RefCOCO-Matching")
    rows = []
    for number in range(2):
        paths = [here[number], *here[:number], *here[number + 1 :]]
        captions = [f'"caption {number}" of {path}' for path in paths]
        rows.append(
            {
                "qry_inst": "<|image_1|>\nIdentify the object. \n" if texts else "Find me",
                "qry_text": "" if entry.parser == "image_cls" else f"question {number}",
                "qry_img_path": "" if entry.parser == "image_t2i" else here[3],
                "tgt_inst": "" if texts else "<|image_1|>\nRepresent the given image.",
                "tgt_text": [f"word {(number + step) % 3}" for step in range(3)]
                if texts
                else captions
                if captioned
                else [""] * 4,
                "tgt_img_path": [""] * 3 if texts else paths,
            }
        )
    _parquet(place.tables / benchmark.IMAGE_REPO / entry.config / TEST, rows)


def _video_task(place, entry):
    frames = place.data / "video-tasks" / "frames" / entry.folder
    rows = ROWS[entry.parser](entry, frames)
    home = place.tables / entry.repo
    if entry.parser == "mvbench":
        configs = [
            {"config_name": name, "data_files": [{"split": "train", "path": f"json/{name}.json"}]}
            for name in rows
        ]
        _readme(home, configs)
        for name, subset in rows.items():
            _write(home / "json" / f"{name}.json", json.dumps(subset))
    elif entry.parser == "activitynetqa":
        _saved(home, rows)
    elif entry.parser == "vatex":
        files = [{"split": "test", "path": "vatex_*.json"}]
        _readme(home, [{"config_name": "default", "data_files": files}])
        _write(home / "vatex_a.json", "\n".join(json.dumps(row) for row in rows))
    elif entry.parser in ("moment_retrieval", "didemo"):
        _write(home / "data" / "test.jsonl", "\n".join(json.dumps(row) for row in rows))
    else:
        folder = home / (entry.config or "data")
        _parquet(folder / TEST.replace("test", entry.split), rows)


def _classification(entry, frames):
    names = {"HMDB51": ["wave", "dive"], "UCF101": ["Kayaking", "Diving"]}
    names = names.get(entry.name, ["pancake", "tea"] if entry.name == "Breakfast" else ["parkour"])
    rows = [{"video_id": f"clip_{at}", "pos_text": name} for at, name in enumerate(names * 2)]
    return _with_frames(frames, rows, lambda row: row["video_id"])


def _ssv2(entry, frames):
    texts = ["Pushing something", "Lifting something", "Dropping something"]
    rows = [{"video_id": 70 + at, "pos_text": texts[at], "neg_text": texts} for at in range(3)]
    return _with_frames(frames, rows, lambda row: str(row["video_id"]))


def _msrvtt(entry, frames):
    rows = [
        {"video_id": f"video{at}", "video": f"all/video{at}.mp4", "caption": f"caption {at}"}
        for at in range(3)
    ]
    return _with_frames(frames, rows, lambda row: row["video_id"])


def _msvd(entry, frames):
    rows = [
        {"video_id": f"v{at}", "video": f"v{at}.avi", "caption": [f"first {at}", "second"]}
        for at in range(3)
    ]
    return _with_frames(frames, rows, lambda row: row["video_id"])


def _didemo(entry, frames):
    rows = [{"video": f"videos/didemo.{at}.mp4", "caption": f"scenes {at}"} for at in range(3)]
    return _with_frames(frames, rows, lambda row: Path(row["video"]).stem)


def _vatex(entry, frames):
    rows = [{"videoID": f"x{at}", "enCap": [f"english {at}", "b"], "chCap": []} for at in range(3)]
    return _with_frames(frames, rows, lambda row: row["videoID"])


def _youcook2(entry, frames):
    rows = [
        {"id": f"cook_{at}", "video_path": f"val/cook_{at}.mp4", "sentence": f"stir {at}"}
        for at in range(3)
    ]
    return _with_frames(frames, rows, lambda row: row["id"])


def _scenes(entry, frames):
    for video in ("vid1", "vid2"):
        _frames(frames / video / "query", 10)
        for clip in ("positive_1", "negative_10", "negative_2"):
            _frames(frames / video / clip, 3)
    _write(frames / "vid1" / "notes.txt", "a file is no clip")
    return [
        {"query": f"scene {at}", "video_path": f"videos/{video}.mp4"}
        for at, video in enumerate(("vid1", "vid2", "vid1"))
    ]


def _momentseeker(entry, frames):
    for clip in ("movie_a", "movie_b", "movie_c", "game_q"):
        _frames(frames / "video_frames" / clip, 11)
    _picture(frames / "query_still.jpg")
    clips = [{"output_path": f"movie/{name}.mp4"} for name in "abc"]
    sources = ("game/q.mp4", "still.jpg", "")
    return [
        {
            "query": f"moment {at}",
            "input_frames": source,
            "positive_frames": clips[: 1 + at % 2],
            "negative_frames": clips[1 + at % 2 :],
        }
        for at, source in enumerate(sources)
    ]


def _videomme(entry, frames):
    options = ["A. Red. ", "B. Blue.", "C. Dark green", "D. No. 5"]
    rows = [
        {
            "videoID": f"yt{at // 2}",
            "question": f"Which colour is {at}?",
            "options": options,
            "answer": "ABCD"[at],
            "question_id": f"00{at}-1",
            "domain": "Knowledge",
            "sub_category": "Art",
        }
        for at in range(4)
    ]
    return _with_frames(frames, rows, lambda row: row["videoID"])


def _nextqa(entry, frames):
    rows = [
        {"video": 4740931975 + at, "question": "why", "answer": at, "qid": at, "type": "CW"}
        | {f"a{number}": f"reason {number}" for number in range(5)}
        for at in range(2)
    ]
    return _with_frames(frames, rows, lambda row: str(row["video"]))


def _egoschema(entry, frames):
    rows = [
        {
            "video_idx": f"ego-{at}",
            "question": "What does C do?",
            "option": ["A. C cooks.", "B. C cleans.", "C. C reads."],
            "answer": str(at),
            "question_idx": f"q{at}",
        }
        for at in range(2)
    ]
    return _with_frames(frames, rows, lambda row: row["video_idx"])


def _mvbench(entry, frames):
    from umer1.evaluation.datasets.video_qa import MVBENCH_SUBSETS

    tables = {}
    for subset in MVBENCH_SUBSETS:
        rows = [{"video": "a.mp4", "question": "What?", "candidates": ["up", "down"]}]
        rows[0]["answer"] = "down"
        tables[subset] = _with_frames(frames / subset, rows, lambda row: row["video"])
    return tables


def _activitynetqa(entry, frames):
    rows = [
        {"video_name": "abc", "question": f"is it {word}", "answer": word, "question_id": word}
        for word in ("yes", "no")
    ]
    return _with_frames(frames, rows, lambda row: f"v_{row['video_name']}")


ROWS = {
    "video_classification": _classification,
    "ssv2": _ssv2,
    "msrvtt": _msrvtt,
    "msvd": _msvd,
    "didemo": _didemo,
    "vatex": _vatex,
    "youcook2": _youcook2,
    "moment_retrieval": _scenes,
    "momentseeker": _momentseeker,
    "videomme": _videomme,
    "nextqa": _nextqa,
    "egoschema": _egoschema,
    "mvbench": _mvbench,
    "activitynetqa": _activitynetqa,
}


def _page_task(place, entry):
    """Pages are in the corpus table and, as the released loaders leave them, in `image_root`."""
    visrag = entry.parser == "visrag"
    ids = [f"a page with quite a long name of over fifty letters {at}.jpg" for at in range(3)]
    ids = ids if visrag else [11, 12, 13]
    from umer1.evaluation.datasets.visdoc import PAGE_FILES

    for page in ids:
        _picture(place.data / "visdoc-tasks" / entry.folder / PAGE_FILES[entry.parser](page))
    languages = ["english", "french"] if "v2" in entry.repo else [None, None]
    queries = [
        {"query-id": at, "query": f"topic {at}", "language": language}
        for at, language in enumerate(languages)
    ]
    grades = [(0, 2, 1), (0, 1, 2), (0, 2, 2), (1, 0, 1), (1, 1, 0)]
    qrels = [{"query-id": q, "corpus-id": ids[page], "score": s} for q, page, s in grades]
    pages = [{"corpus-id": page, "image": {"bytes": encoded("PNG"), "path": None}} for page in ids]
    home = place.tables / entry.repo
    for name, rows in (("queries", queries), ("qrels", qrels), ("corpus", pages)):
        if entry.name == "VisRAG_PlotQA":
            _saved(home / name, rows)
        else:
            _parquet(home / name / TEST.replace("test", entry.split), rows)


def _with_frames(folder, rows, name):
    """The rows, with a frame directory for each."""
    for at, row in enumerate(rows):
        _frames(folder / name(row), 10 if at == 0 else 3)
    return rows


def _frames(folder, count):
    for number in range(1, count + 1):
        _picture(folder / f"frame_{number}.jpg")


JPEG = encoded()


def _picture(path):
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def _readme(home, configs):
    _write(home / "README.md", f"---\n{json.dumps({'configs': configs})}\n---\n# A data set")


def _parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _saved(folder, rows):
    """As `Dataset.save_to_disk` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
