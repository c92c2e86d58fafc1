"""Servers that speak vLLM's and SGLang's HTTP protocols over our own model, one token per forward.

What they take, refuse and answer follows vLLM 0.32 (`/inference/v1/generate` and its development
routes) and SGLang 0.5.23 (`/vertex_generate` and its control routes). Both prepare pictures themselves, by
the limits of the checkpoint's preprocessor_config.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image

from umer1.media import image_patches, video_patches
from umer1.model.checkpoint import load_model
from umer1.model.sequence import Sequence, pack

MAX_TOKENS = 1024
_STATES: dict[tuple, torch.Tensor] = {}  # of all servers: model, pixels and ids -> last state [H]


class Refused(Exception):
    def __init__(self, status: int, message: str):
        self.status, self.message = status, message


class FakeServer:
    """Attributes:
    low, high: pixels of a picture. calls: (path, body) of every request that was let in.
    failures: statuses to answer with before anything works. hold: answers wait while it is set.
    gone: requests whose client left. key: wanted as a bearer token.
    """

    def __init__(self, model, processor, *, low=784, high=25088, key=None):
        self.model, self.processor, self.low, self.high, self.key = model, processor, low, high, key
        self.calls: list[tuple[str, dict]] = []
        self.failures: list[int] = []
        self.hold, self.gone = threading.Event(), 0
        self.weight_version, self.asleep = "default", False
        self.app = FastAPI()
        self.app.exception_handler(Refused)(self._refuse)
        self.routes()

    async def _refuse(self, request: Request, error: Refused):
        return JSONResponse({"error": {"message": error.message}}, error.status)

    async def body(self, request: Request) -> dict:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, "Unauthorized")
        if self.failures:
            raise Refused(self.failures.pop(0), "not now")
        body = await request.json() if await request.body() else {}
        self.calls.append((request.url.path, body))
        while self.hold.is_set():
            if await request.is_disconnected():
                self.gone += 1
                raise Refused(499, "client left")
            await asyncio.sleep(0.01)
        return body

    def sequence(self, ids: list[int], media: list[list[Image.Image]]) -> Sequence:
        """The prompt with its placeholders multiplied, as their processors do it."""
        pads = (self.processor.image_pad_id, self.processor.video_pad_id)
        if sum(token in pads for token in ids) != len(media):
            raise Refused(400, f"prompt placeholders do not match {len(media)} media")
        whole, mask, patches, grids = [], [], [], []
        for token in ids:
            count = 1
            if token in pads:
                frames = media[len(grids)]
                cut = image_patches if token == pads[0] else video_patches
                made, grid = cut(
                    frames[0] if token == pads[0] else frames,
                    self.processor.pixel_format,
                    self.low,
                    self.high,
                )
                patches.append(made)
                grids.append(grid)
                count = len(made) // 4
            whole += [token] * count
            mask += [token in pads] * count
        return Sequence(
            torch.tensor(whole),
            torch.tensor(mask),
            torch.cat(patches) if patches else None,
            torch.stack(grids) if grids else torch.zeros(0, 3, dtype=torch.int64),
        )

    @torch.no_grad()
    def write(self, sequence, count, stops, temperature=0.0, seed=None):
        """Tokens, their log-probabilities, the state [H] that wrote the last one."""
        if not 1 <= count or len(sequence) + count > MAX_TOKENS:
            raise Refused(400, f"{len(sequence)} + {count} tokens, at most {MAX_TOKENS}")
        tokens, logprobs, state = [], [], None
        generator = torch.Generator().manual_seed(seed or 0)
        while len(tokens) < count and not (tokens and tokens[-1] in stops):
            whole = sequence.extend(tokens)
            pixels = 0.0 if whole.pixel_values is None else float(whole.pixel_values.sum())
            key = (self.model, pixels, *whole.input_ids.tolist())
            if key not in _STATES:
                _STATES[key] = self.model(pack([whole]))[-1]
            state = _STATES[key]
            scores = (self.model.logits(state) / (temperature or 1.0)).log_softmax(-1)
            token = scores.argmax() if not temperature else None
            if token is None:
                token = torch.multinomial(scores.exp(), 1, generator=generator)
            tokens.append(int(token))
            logprobs.append(float(scores[tokens[-1]]))
        return tokens, logprobs, state

    def new_weights(self, directory: str) -> None:
        self.model = load_model(Path(directory), dtype=torch.float32)

    @contextmanager
    def running(self):
        """Its address."""
        config = uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server has not started"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            self.hold.clear()
            server.should_exit = True
            thread.join(30)


def only(given: dict, allowed: set[str], where: str) -> None:
    if unknown := set(given) - allowed:
        raise Refused(400, f"{where}: unknown {sorted(unknown)}")


def picture(uri: str, prefix: str) -> Image.Image:
    if not uri.startswith(prefix):
        raise Refused(400, f"wants {prefix}, got {uri[:30]}")
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix), validate=True)))
    return image.convert("RGB")
