"""A benchmark with one task per parser family, and an embedder that hashes instead of thinking."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DIMENSION = 24


@dataclass
class FakeEmbeddings:
    disc: np.ndarray | None = None
    gen: np.ndarray | None = None
    reasoning: list = field(default_factory=list)
    summary: list = field(default_factory=list)
    finish: list = field(default_factory=list)
    tokens: list = field(default_factory=list)


class FakeEmbedder:
    """Vectors depend on the item, the mode, the read-out and (sampling) the seed; `calls` records
    what was asked.
    """

    def __init__(self):
        self.calls = []

    def stream(self, items, mode="both", n=1, temperature=0.0, *, numbers=None, **options):
        """Items finish out of order."""
        assert len(numbers) == len(items)
        self.calls.append({"items": len(items), "mode": mode, "n": n, "temperature": temperature})
        for place in sorted(range(len(items)), key=lambda place: (place // 3, -place)):
            yield place, self.embed(items[place], mode, n, temperature, options["readout"])

    def embed(self, item, mode, n, temperature, readout):
        out = FakeEmbeddings()
        if mode in ("disc", "both"):
            out.disc = self.vector(item, "disc", readout)[None]
        if mode in ("gen", "both"):
            samples = range(n) if temperature else ["greedy"]
            gen = np.stack([self.vector(item, "gen", f"{sample}") for sample in samples])
            out.gen = gen[None] if n > 1 else gen
            texts = {"finish": "gen_emb", "reasoning": "r é", "summary": "s", "tokens": 7}
            for name, text in texts.items():
                setattr(out, name, [[text] * n if n > 1 else text])
        return out

    def vector(self, item, kind, variant):
        return hashed_vector(json.dumps([item, kind, variant], sort_keys=True))


def hashed_vector(text):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def embedder():
    return FakeEmbedder()


@pytest.fixture
def fake_embedder_class():
    return FakeEmbedder


@pytest.fixture
def benchmark_dir(tmp_path):
    return write_benchmark(tmp_path / "bench" / "eval")


def write_benchmark(root: Path) -> Path:
    """image.yaml, video.yaml, visdoc.yaml with data below `root`, tasks.json beside it."""
    _write_image(root)
    _write_video(root)
    _write_visdoc(root)
    kinds = {"digit": "one_look", "sum": "multi_step", "pages": "one_look"}
    notes = {name: {"kind": kind} for name, kind in kinds.items()}
    (root.parent / "tasks.json").write_text(json.dumps(notes))
    return root


def _write_image(root):
    for number in range(6):
        _picture(root / "image-tasks" / "pics" / f"p{number}.png")
    answers = ["zero", "one", "two", "three"]
    rows = {
        "digit": [
            _row(
                "<|image_1|>\nName the digit.", "", f"pics/p{n}.png", "", answers[n:] + answers[:n]
            )
            for n in range(4)
        ],
        "sum": [
            _row("<|image_1|>\nAdd up: ", "all digits", f"pics/p{n}.png", "", ["3", "4", "5"])
            for n in range(3)
        ],
        "find": [
            _row("Find", f"number {n}", "", "<|image_1|> A picture.", ["", ""], _paths(n, n + 1))
            for n in range(3)
        ],
        "captioned": [
            _row("Find", "it", "", "<|image_1|> A picture.", ['a "cap"', "b"], _paths(n, n + 1))
            for n in range(2)
        ],
        "match": [
            _row(
                "<|image_1|>\nMatch it \n",
                "now",
                "pics/p5.png",
                "<|image_1|> Whole.",
                ["", ""],
                _paths(n, 4),
            )
            for n in range(3)
        ],
    }
    parsers = {
        "digit": "image_cls",
        "sum": "image_qa",
        "find": "image_t2i",
        "captioned": "image_t2i",
        "match": "image_i2i_vg",
    }
    entries = {}
    for name, parser in parsers.items():
        _jsonl(root / "image-tasks" / f"{name}.jsonl", rows[name])
        entries[name] = {
            "dataset_parser": parser,
            "dataset_name": name,
            "image_root": "image-tasks/",
            "eval_type": "local",
            "num_sample_per_subset": "None",
            "data_path": f"image-tasks/{name}.jsonl",
        }
    _yaml(root / "image.yaml", entries)


def _write_video(root):
    for name in (
        "v1",
        "v2",
        "v3",
        "video_frames/clips_c1",
        "video_frames/clips_c2",
        "video_frames/clips_c3",
    ):
        for frame in range(1, 12):
            _picture(root / "video-tasks" / "frames" / name / f"frame_{frame}.jpg")
    _picture(root / "video-tasks" / "frames" / "query_still.jpg")
    data = root / "video-tasks" / "data"
    labels = ["up", "down", "left"]
    _jsonl(
        data / "action.jsonl",
        [{"video_id": f"v{n + 1}", "pos_text": labels[n], "neg_text": labels} for n in range(3)],
    )
    _jsonl(
        data / "caption.jsonl", [{"video_id": f"v{n}", "caption": f"video {n}"} for n in (1, 2, 3)]
    )
    clips = [{"output_path": f"clips/c{n}.mp4"} for n in (1, 2, 3)]
    _jsonl(
        data / "moment.jsonl",
        [
            {
                "query": "",
                "input_frames": "still.jpg",
                "positive_frames": clips[:1],
                "negative_frames": clips[1:],
            },
            {
                "query": "a cat",
                "input_frames": "",
                "positive_frames": clips[1:],
                "negative_frames": clips[:1],
            },
        ],
    )
    shared = {"frame_root": "video-tasks/frames", "num_frames": 8}
    entries = {
        "action": {"dataset_parser": "ssv2", "eval_type": "local", **shared},
        "caption": {
            "dataset_parser": "msrvtt",
            "eval_type": "global",
            "query_instruction": "Find:",
            **shared,
        },
        "moment": {"dataset_parser": "momentseeker", "eval_type": "local", **shared},
    }
    for name, entry in entries.items():
        entry["data_path"] = f"video-tasks/data/{name}.jsonl"
    _yaml(root / "video.yaml", entries)


def _write_visdoc(root):
    folder = root / "visdoc-tasks" / "pages"
    for page in range(5):
        _picture(folder / f"page{page}.png")
    _jsonl(folder / "queries.jsonl", [{"query-id": n, "query": f"topic {n}"} for n in range(3)])
    _jsonl(folder / "corpus.jsonl", [{"corpus-id": f"page{n}"} for n in range(5)])
    grades = [
        (0, "page3", 2),
        (0, "page1", 1),
        (0, "page3", 1),
        (1, "page0", 1),
        (2, "page4", 1),
        (2, "page0", 0),
    ]
    _jsonl(
        folder / "qrels.jsonl",
        [{"query-id": q, "corpus-id": page, "score": score} for q, page, score in grades],
    )
    entry = {
        "dataset_parser": "vidore",
        "eval_type": "global",
        "image_root": "visdoc-tasks/pages",
        "data_path": "visdoc-tasks/pages",
    }
    _yaml(root / "visdoc.yaml", {"pages": entry})


def _row(qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text, tgt_img_path=None):
    return {
        "qry_inst": qry_inst,
        "qry_text": qry_text,
        "qry_img_path": qry_img_path,
        "tgt_inst": tgt_inst,
        "tgt_text": tgt_text,
        "tgt_img_path": tgt_img_path or [""] * len(tgt_text),
    }


def _paths(*numbers):
    return [f"pics/p{number}.png" for number in numbers]


def _picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (28, 28), (len(str(path)), 0, 0)).save(path)


def _jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _yaml(path, entries):
    # JSON is YAML
    path.write_text(json.dumps(entries, indent=1))
