"""MMEB-V2 as data: its 81 entries, and the YAML files of the three projects that evaluate it.

    entries()["K700"].group                      # "CLS"
    yaml_entries("ume-r1")["video.yaml"]["K700"] # {"dataset_parser": "video_classification", ...}

The facts are in mmeb_v2.yaml; this module adds what differs between the projects' layouts on disk.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

NAME = "mmeb-v2"
IMAGE_REPO = "ziyjiang/MMEB_Test_Instruct"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry.

    name: its YAML key, and the name of its result files. dataset: the loader's name for it.
    repo, config, split: its tables on the hub (`before`: the repository before the page data were
    corrected). queries, candidates: how many there are, where that is published; later: queries of
    a newer revision. language: only queries in it. sample: the entry takes the first so many rows.
    counted: among the 78 tasks of the leaderboard. folder, data: see mmeb_v2.yaml.
    """

    name: str
    modality: str
    group: str
    parser: str
    dataset: str
    eval_type: str
    repo: str
    config: str | None = None
    split: str = "test"
    before: str | None = None
    language: str | None = None
    queries: int | None = None
    later: int | None = None
    candidates: int | None = None
    sample: int | None = None
    counted: bool = True
    folder: str = ""
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a project's YAML files look for media, and how many frames it takes."""

    images: str
    pages: str
    retrieval_frames: str
    renamed: dict[str, str]
    frames: int = 8
    uncounted: bool = False
    tables: bool = False


LAYOUTS = {
    "vlm2vec": Layout(
        images="image-tasks/",
        pages="visdoc-tasks/{folder}",
        retrieval_frames="video_ret/{name}/",
        renamed={},
        uncounted=True,
    ),
    "ume-r1": Layout(
        images="image-tasks/MMEB/",
        pages="visdoc-tasks/visdoc-tasks/{folder}",
        retrieval_frames="video_ret/{name}/frames/",
        renamed={"video_mret/Charades_STA": "video_mret/Charades-STA"},
        tables=True,
    ),
    "qwen3-vl-embedding": Layout(
        images="image-tasks/",
        pages="visdoc-tasks/images/{folder}",
        retrieval_frames="video_ret/data/ziyan/video_retrieval/{name}/frames",
        renamed={
            "video_mret/Charades_STA": "video_mret/Charades-STA",
            "video_qa/EgoSchema": "video_qa/egoschema",
        },
        frames=64,
    ),
}


@cache
def entries() -> dict[str, Entry]:
    """YAML key -> entry, in the order of the YAML files."""
    import yaml

    path = Path(__file__).with_name("mmeb_v2.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        row["name"]: _entry(modality, dict(row))
        for modality, rows in content.items()
        for row in rows
    }


@cache
def datasets() -> dict[str, Entry]:
    """Loader's name (`dataset_name`) -> entry, also of what VLM2Vec names and no YAML file lists."""
    named = {entry.dataset: entry for entry in entries().values()}
    first = named["MomentSeeker"]
    name = "MomentSeeker_1k8"
    named[name] = replace(first, name=name, dataset=name, repo=f"VLM2Vec/{name}", later=None)
    return named


def yaml_entries(layout: str = "vlm2vec") -> dict[str, dict[str, dict]]:
    """File name -> entries as that project's YAML file has them."""
    if layout not in LAYOUTS:
        raise ValueError(f"{NAME}: got the layout {layout!r}, need one of {', '.join(LAYOUTS)}")
    chosen = LAYOUTS[layout]
    files = {f"{modality}.yaml": {} for modality in ("image", "video", "visdoc")}
    for entry in entries().values():
        if entry.counted or chosen.uncounted:
            files[f"{entry.modality}.yaml"][entry.name] = _fields(entry, chosen)
    return files


def _entry(modality, row):
    row.setdefault("dataset", row["name"])
    row["eval_type"] = row.pop("scope", "global" if modality == "visdoc" else "local")
    if modality == "image":
        row |= {"repo": IMAGE_REPO, "config": row["dataset"]}
    return Entry(modality=modality, **row)


def _fields(entry, layout):
    fields = {"dataset_parser": entry.parser, "dataset_name": entry.dataset}
    if entry.modality == "image":
        fields |= {"dataset_split": "test", "image_root": layout.images}
    elif entry.modality == "visdoc":
        fields["image_root"] = layout.pages.format(folder=entry.folder)
    else:
        fields |= _video_fields(entry, layout)
    return {**fields, "eval_type": entry.eval_type}


def _video_fields(entry, layout):
    folder = layout.renamed.get(entry.folder, entry.folder)
    frames = f"video-tasks/frames/{folder}"
    if entry.group == "RET":
        frames = "video-tasks/frames/" + layout.retrieval_frames.format(name=entry.name)
    fields = {"video_root": f"video-tasks/videos/{entry.folder}", "frame_root": frames}
    if layout.tables and entry.data:
        fields["data_path"] = f"video-tasks/data/{entry.data}.jsonl"
    if entry.group == "MRET":
        fields |= {"video_root": "", "clip_root": "", "num_negative_clips": 9}
        fields["num_video_frames"] = layout.frames
        if entry.parser == "moment_retrieval":
            fields |= {"max_video_frames_saved": 64, "max_clip_frames_saved": 8}
            fields["num_clip_frames"] = 8
        return fields
    if entry.group != "QA":
        fields["num_sample_per_subset"] = entry.sample or "None"
    return {**fields, "max_frames_saved": 64, "num_frames": layout.frames}
