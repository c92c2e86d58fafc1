"""Evaluation files in VLM2Vec's dialect: a YAML entry and tables per task, media in its layout."""

import json
from pathlib import Path

from umer1.data.mini.media import MediaFolder
from umer1.data.mini.task import Example, Part, Task


def write_task(root: Path, task: Task, examples: list[Example]) -> tuple[dict, list[dict]]:
    """Write one task below `root` (OUT/eval); returns its YAML entry and the truth per query."""
    writer = {"image": _write_image, "video": _write_video, "visdoc": _write_visdoc}[task.modality]
    entry = {"dataset_parser": task.parser, "dataset_name": task.name, "dataset_split": "test"}
    entry["eval_type"] = task.eval_type
    entry |= writer(root, task, examples)
    truths = [
        {
            "task": task.name,
            "answer": example.answer,
            "qry": example.query.truth,
            "pos": example.target.truth,
            "wrong": [part.truth or {"text": part.text} for part in example.wrong],
        }
        for example in examples
    ]
    return entry, truths


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_image(root: Path, task: Task, examples: list[Example]) -> dict:
    media, rows = MediaFolder(root / "image-tasks"), []

    def stored(part: Part, name: str) -> str:
        if part.image is None:
            return ""
        return media.image(part.image, f"{task.name}/{part.name or name}.png")

    for index, example in enumerate(examples):
        candidates = [example.target, *example.wrong]
        rows.append(
            {
                "qry_inst": task.query_instruction,
                "qry_text": example.query.text,
                "qry_img_path": stored(example.query, f"{index:04d}_qry"),
                "tgt_inst": task.target_instruction,
                "tgt_text": [part.text for part in candidates],
                "tgt_img_path": [
                    stored(part, f"{index:04d}_tgt{place}") for place, part in enumerate(candidates)
                ],
            }
        )
    write_jsonl(root / f"image-tasks/{task.name}.jsonl", rows)
    return {"image_root": "image-tasks/", "data_path": f"image-tasks/{task.name}.jsonl"}


def _write_video(root: Path, task: Task, examples: list[Example]) -> dict:
    frame_root = f"video-tasks/frames/{task.name}"
    media = MediaFolder(root / frame_root)
    row_of = {"ssv2": _ssv2_row, "msrvtt": _msrvtt_row, "momentseeker": _moment_row}[task.parser]
    rows = [row_of(media, index, example) for index, example in enumerate(examples)]
    write_jsonl(root / f"video-tasks/data/{task.name}.jsonl", rows)
    entry = {
        "video_root": f"video-tasks/videos/{task.name}",
        "frame_root": frame_root,
        "num_frames": 8,
        "max_frames_saved": 64,
        "data_path": f"video-tasks/data/{task.name}.jsonl",
        "query_instruction": task.query_instruction,
    }
    if task.target_instruction:
        entry["target_instruction"] = task.target_instruction
    return entry


def _ssv2_row(media: MediaFolder, index: int, example: Example) -> dict:
    video_id = f"{index:04d}"
    media.directory(example.query.frames, video_id)
    # upstream's lists have the right answer anywhere, and first place would win every tie
    answers = sorted([example.target.text, *(part.text for part in example.wrong)])
    return {"video_id": video_id, "pos_text": example.target.text, "neg_text": answers}


def _msrvtt_row(media: MediaFolder, index: int, example: Example) -> dict:
    video_id = f"{index:04d}"
    media.directory(example.target.frames, video_id)
    return {"video_id": video_id, "caption": example.query.text}


def _moment_row(media: MediaFolder, index: int, example: Example) -> dict:
    def stored(part: Part) -> dict:
        media.directory(part.frames, f"video_frames/{part.name}")
        return {"output_path": f"{part.name}.mp4"}

    # upstream's names: `0001.jpg` is in `query_0001.jpg`, the frames of `a.mp4` in `video_frames/a`
    media.image(example.query.image, f"query_{index:04d}.jpg")
    return {
        "query": example.query.text,
        "input_frames": f"{index:04d}.jpg",
        "positive_frames": [stored(example.target)],
        "negative_frames": [stored(part) for part in example.wrong],
    }


def _write_visdoc(root: Path, task: Task, examples: list[Example]) -> dict:
    folder = f"visdoc-tasks/{task.name}"
    media = MediaFolder(root / folder)
    texts = list(dict.fromkeys(example.query.text for example in examples))
    query_ids = {text: f"query-{number:03d}" for number, text in enumerate(texts)}
    corpus, qrels = [], []
    for number, example in enumerate(examples):
        page = f"page-{number:03d}"
        media.image(example.target.image, f"{page}.png")
        corpus.append({"corpus-id": page})
        qrels.append({"query-id": query_ids[example.query.text], "corpus-id": page, "score": 1})
    queries = [{"query-id": identity, "query": text} for text, identity in query_ids.items()]
    for name, rows in (("queries", queries), ("corpus", corpus), ("qrels", qrels)):
        write_jsonl(root / folder / f"{name}.jsonl", rows)
    return {
        "image_root": folder,
        "data_path": folder,
        "query_instruction": task.query_instruction,
        "target_instruction": task.target_instruction,
    }
