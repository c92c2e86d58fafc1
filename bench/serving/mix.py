"""What the load test asks: requests of every form, mode and modality, no two of them alike.

The items are queries and targets of the miniature benchmark, so the bundled model reasons about them as it was trained
to; a running number at the end of each text makes its prompt a new one, as most are in real use.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from umer1.data.mini import Counts, build

MAX_TOKENS = 64  # twice what the model writes about these items
# 14 tasks, each with a query and a target
COUNTS = Counts(one_look=14, multi_step=14, rl=30, evaluation=8)
MODES = ("disc", "gen", "both")
EMBEDDINGS, CHAT = "/v1/embeddings", "/v1/chat/completions"


class Options(NamedTuple):
    """Arguments of `Embedder.stream`."""

    mode: str
    n: int = 1
    temperature: float = 0.0
    max_think_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One item of a request, as the offline engine gets it."""

    item: dict
    options: Options
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    kind: str
    path: str
    body: bytes
    parts: list[Part] = field(default_factory=list)


class Mix:
    """Args: encode_text, the tokenizer; texts, pictures, clips: items with `text`, and the path of an `image` or `video`."""

    def __init__(
        self,
        model: str,
        encode_text: Callable[[str], list[int]],
        texts: list[dict],
        pictures: list[dict],
        clips: list[dict],
    ):
        self.model, self.encode_text = model, encode_text
        self.texts, self.pictures, self.clips = texts, pictures, clips
        self._addresses: dict[str, str] = {}

    @classmethod
    def of_benchmark(cls, directory: Path, model: str, encode_text: Callable) -> Mix:
        """From the miniature benchmark, built below `directory` (kept from run to run)."""
        data = build(directory / "mini", counts=COUNTS, progress=False) / "train"
        rows = json.loads((data / "rl.json").read_text())
        sides = [_side(row, side, data) for row in rows for side in ("qry", "pos")]
        texts = [side for side in sides if not side.keys() & {"image", "frames"}]
        pictures = [side for side in sides if "image" in side]
        filmed = [side for side in sides if "frames" in side]
        clips = [clip(side, directory / "clips", n) for n, side in enumerate(filmed)]
        return cls(model, encode_text, texts, pictures, clips)

    def draw(self, chance: Random, number: int) -> Request:
        """Another request; `number` is in its texts."""
        kind = chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return self.make(kind, chance, number)

    def make(self, kind: str, chance: Random, number: int) -> Request:
        """A request of one of `KINDS`."""
        path, body, parts = KINDS[kind][1](self, chance, number)
        body |= {"model": self.model, "max_tokens": MAX_TOKENS}
        return Request(kind, path, json.dumps(body).encode(), parts)

    def text(self, chance: Random, number: int) -> str:
        return f"{chance.choice(self.texts)['text']} {number}"

    def seen(self, items: list[dict], chance: Random, number: int) -> tuple[list[dict], dict]:
        """A picture or clip with its question: as messages, and as the item they stand for."""
        chosen = chance.choice(items)
        kind = "image" if "image" in chosen else "video"
        item = {"text": f"{chosen['text']} {number}", kind: chosen[kind]}
        address = {"type": f"{kind}_url", f"{kind}_url": {"url": self._address(chosen[kind])}}
        content = [address, {"type": "text", "text": item["text"]}]
        return [{"role": "user", "content": content}], item

    def _address(self, path: str) -> str:
        """The file as a data URI."""
        if path not in self._addresses:
            kind = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4"}
            content = base64.b64encode(Path(path).read_bytes()).decode()
            self._addresses[path] = f"data:{kind[Path(path).suffix]};base64,{content}"
        return self._addresses[path]


Drawn = tuple[str, dict, list[Part]]


def _text(mix: Mix, chance: Random, number: int) -> Drawn:
    text, mode = mix.text(chance, number), chance.choice(MODES)
    body = {"input": text, "mode": mode, "encoding_format": chance.choice(("float", "base64"))}
    return EMBEDDINGS, body, [Part({"text": text}, Options(mode))]


def _texts(mix: Mix, chance: Random, number: int) -> Drawn:
    texts = [mix.text(chance, number) for _ in range(chance.randint(2, 4))]
    mode = chance.choice(MODES)
    body = {"input": texts, "mode": mode, "encoding_format": "base64"}
    return EMBEDDINGS, body, [Part({"text": text}, Options(mode)) for text in texts]


def _tokens(mix: Mix, chance: Random, number: int) -> Drawn:
    text = mix.text(chance, number)
    body = {"input": mix.encode_text(text), "mode": "gen", "encoding_format": "float"}
    return EMBEDDINGS, body, [Part({"text": text}, Options("gen"))]


def _seen(items: str) -> Callable[[Mix, Random, int], Drawn]:
    def drawn(mix: Mix, chance: Random, number: int) -> Drawn:
        messages, item = mix.seen(getattr(mix, items), chance, number)
        mode = chance.choice(MODES)
        body = {"messages": messages, "mode": mode, "encoding_format": "base64"}
        return EMBEDDINGS, body, [Part(item, Options(mode))]

    return drawn


def _conversations(mix: Mix, chance: Random, number: int) -> Drawn:
    both = [mix.seen(items, chance, number) for items in (mix.pictures, mix.clips)]
    body = {"messages": [messages for messages, _ in both], "mode": "gen"}
    return EMBEDDINGS, body, [Part(item, Options("gen")) for _, item in both]


def _samples(mix: Mix, chance: Random, number: int) -> Drawn:
    messages, item = mix.seen(mix.pictures, chance, number)
    options, seed = Options("gen", n=2, temperature=0.8), chance.randrange(1 << 31)
    body = {"messages": messages, "mode": "gen", "n": 2, "temperature": 0.8, "seed": seed}
    return EMBEDDINGS, body, [Part(item, options, seed)]


def _budget(mix: Mix, chance: Random, number: int) -> Drawn:
    messages, item = mix.seen(mix.pictures, chance, number)
    body = {"messages": messages, "mode": "gen", "max_think_tokens": 4}
    return EMBEDDINGS, body, [Part(item, Options("gen", max_think_tokens=4))]


def _chat(stream: bool) -> Callable[[Mix, Random, int], Drawn]:
    def drawn(mix: Mix, chance: Random, number: int) -> Drawn:
        mode = chance.choice(("gen", "both"))
        if chance.random() < 0.5:
            messages, item = mix.seen(mix.pictures, chance, number)
        else:
            item = {"text": mix.text(chance, number)}
            messages = [{"role": "user", "content": item["text"]}]
        body = {"messages": messages, "mode": mode, "stream": stream}
        return CHAT, body, [Part(item, Options(mode))]

    return drawn


# how often, and how it is made
KINDS: dict[str, tuple[int, Callable[[Mix, Random, int], Drawn]]] = {
    "text": (20, _text),
    "texts": (10, _texts),
    "tokens": (5, _tokens),
    "picture": (20, _seen("pictures")),
    "clip": (8, _seen("clips")),
    "conversations": (5, _conversations),
    "samples": (8, _samples),
    "budget": (4, _budget),
    "chat": (8, _chat(False)),
    "chat stream": (12, _chat(True)),
}


def _side(row: dict, side: str, data: Path) -> dict:
    found = {"text": row[f"{side}_text"]}
    if row[f"{side}_image"]:
        found["image"] = str(data / row[f"{side}_image"])
    if frames := [str(data / frame) for frame in row[f"{side}_video"] if frame]:
        found["frames"] = frames
    return found


def clip(side: dict, directory: Path, number: int) -> dict:
    """The side with its frames as an MP4 file, as people upload them."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{number:04d}.mp4"
    if not path.exists():
        partial = path.with_suffix(".partial")
        frames = [np.asarray(Image.open(frame).convert("RGB")) for frame in side["frames"]]
        with av.open(str(partial), "w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=2)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        partial.rename(path)
    return {"text": side["text"], "video": str(path)}
