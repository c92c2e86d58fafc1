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


def _only(given: dict, allowed: set[str], where: str) -> None:
    if unknown := set(given) - allowed:
        raise Refused(400, f"{where}: unknown {sorted(unknown)}")


def _picture(uri: str, prefix: str) -> Image.Image:
    if not uri.startswith(prefix):
        raise Refused(400, f"wants {prefix}, got {uri[:30]}")
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix), validate=True)))
    return image.convert("RGB")


class FakeVllm(FakeServer):
    """`vllm serve --enable-scale-out` with VLLM_SERVER_DEV_MODE=1."""

    paused = False

    def routes(self) -> None:
        app = self.app

        @app.post("/inference/v1/generate")
        async def generate(request: Request):
            body = await self.body(request)
            _only(
                body,
                {"token_ids", "sampling_params", "return_token_ids", "content_parts", "model"},
                "request",
            )
            wanted = body["sampling_params"]
            _only(
                wanted,
                {"max_tokens", "temperature", "top_p", "top_k", "ignore_eos", "stop_token_ids",
                 "detokenize", "seed"},
                "sampling_params",
            )  # fmt: skip
            sequence = self.sequence(
                body["token_ids"], [self._frames(part) for part in body.get("content_parts", [])]
            )
            stops = set(wanted["stop_token_ids"])
            if any(token >= self.model.config.vocab_size for token in stops):
                raise Refused(400, "stop_token_ids: out of vocabulary")
            if not wanted.get("ignore_eos"):
                stops.add(self.model.config.eos_token_id)
            tokens, _, _ = self.write(
                sequence, wanted["max_tokens"], stops, wanted["temperature"], wanted.get("seed")
            )
            stopped = tokens[-1] in stops
            choice = {
                "index": 0,
                "token_ids": tokens,
                "finish_reason": "stop" if stopped else "length",
                "stop_reason": tokens[-1] if stopped else None,
                "logprobs": None,
            }
            prompt = sequence.input_ids.tolist() if body.get("return_token_ids") else None
            return {"request_id": "one", "prompt_token_ids": prompt, "choices": [choice]}

        @app.get("/v1/models")
        async def models(request: Request):
            await self.body(request)
            return {"object": "list", "data": [{"id": "tiny", "max_model_len": MAX_TOKENS}]}

        @app.post("/pause")
        async def pause(request: Request, mode: str = "abort"):
            await self.body(request)
            self.paused = mode == "wait"
            return {"status": "paused"}

        @app.post("/resume")
        async def resume(request: Request):
            await self.body(request)
            self.paused = False
            return {"status": "resumed"}

        @app.post("/collective_rpc")
        async def collective_rpc(request: Request):
            body = await self.body(request)
            assert self.paused and body["method"] == "reload_weights"
            try:
                self.new_weights(body["kwargs"]["weights_path"])
            except ValueError as error:
                raise Refused(500, f"Call to collective_rpc method failed: {error}") from None
            return {"results": [None]}

        @app.post("/reset_prefix_cache")
        async def reset_prefix_cache(request: Request):
            await self.body(request)
            return {"success": True}

        @app.post("/update_weight_version")
        async def update_weight_version(request: Request):
            self.weight_version = (await self.body(request))["new_version"]
            return {"success": True, "new_version": self.weight_version}

        @app.post("/sleep")
        async def sleep(request: Request, level: int = 1):
            await self.body(request)
            self.asleep = level == 1
            return {"status": "sleeping", "level": level}

        @app.post("/wake_up")
        async def wake_up(request: Request):
            await self.body(request)
            self.asleep = False
            return {"status": "awake", "tags": None}

    def _frames(self, part: dict) -> list[Image.Image]:
        if part["type"] == "image_url":
            return [_picture(part["url"], "data:image/png;base64,")]
        prefix = "data:video/jpeg;base64,"
        assert part["type"] == "video_url" and part["url"].startswith(prefix)
        return [_picture(frame, "") for frame in part["url"].removeprefix(prefix).split(",")]


class FakeSGLang(FakeServer):
    """`sglang.launch_server --return-hidden-states-mode last --enable-memory-saver`."""

    gives_states = True

    def routes(self) -> None:
        app = self.app

        @app.post("/vertex_generate")
        async def vertex_generate(request: Request):
            body = await self.body(request)
            _only(body, {"instances", "parameters"}, "request")
            return {
                "predictions": [
                    self._generate(each | body["parameters"]) for each in body["instances"]
                ]
            }

        @app.get("/server_info")
        async def server_info(request: Request):
            await self.body(request)
            return {"max_req_input_len": MAX_TOKENS, "version": "0.5.23"}

        @app.post("/update_weights_from_disk")
        async def update_weights_from_disk(request: Request):
            body = await self.body(request)
            _only(body, {"model_path", "weight_version", "flush_cache"}, "request")
            try:
                self.new_weights(body["model_path"])
            except ValueError as error:
                return JSONResponse(
                    {"success": False, "message": str(error), "num_paused_requests": 0}, 400
                )
            self.weight_version = body["weight_version"]
            return {"success": True, "message": "Succeeded.", "num_paused_requests": 0}

        @app.post("/release_memory_occupation")
        async def release(request: Request):
            self.asleep = (await self.body(request))["tags"] == ["kv_cache"]

        @app.post("/resume_memory_occupation")
        async def resume(request: Request):
            self.asleep = (await self.body(request))["tags"] != ["kv_cache"]

    def _generate(self, body: dict) -> dict:
        _only(
            body,
            {"input_ids", "sampling_params", "return_hidden_states", "return_logprob",
             "return_prompt_token_ids", "image_data"},
            "request",
        )  # fmt: skip
        wanted = body["sampling_params"]
        _only(
            wanted,
            {"max_new_tokens", "temperature", "top_p", "top_k", "skip_special_tokens",
             "stop_token_ids", "sampling_seed"},
            "sampling_params",
        )  # fmt: skip
        if wanted["top_k"] != -1 and wanted["top_k"] < 1:
            raise Refused(400, "top_k must be -1 (disable) or at least 1")
        if body.get("return_hidden_states") == "last" and not self.gives_states:
            raise Refused(
                400,
                "The server is not configured to return hidden states. "
                "Please set `--return-hidden-states-mode last`",
            )
        images = [[_picture(uri, "data:image/png;base64,")] for uri in body.get("image_data", [])]
        sequence = self.sequence(body["input_ids"], images)
        # it also stops at the end tokens of its own configuration
        stops = {*wanted.get("stop_token_ids", []), self.model.config.eos_token_id}
        tokens, logprobs, state = self.write(
            sequence,
            wanted["max_new_tokens"],
            stops,
            wanted["temperature"],
            wanted.get("sampling_seed"),
        )
        finish = {"type": "stop", "matched": tokens[-1]}
        if tokens[-1] not in stops:
            finish = {"type": "length", "length": len(tokens)}
        about = {
            "id": "one",
            "finish_reason": finish,
            "prompt_tokens": len(sequence),
            "completion_tokens": len(tokens),
            "weight_version": self.weight_version,
            "output_token_logprobs": [
                [logprob, token, None] for logprob, token in zip(logprobs, tokens)
            ],
        }
        if body.get("return_hidden_states") == "last":
            about["hidden_states"] = state.tolist()
        answer = {"text": "", "output_ids": tokens, "meta_info": about}
        if body.get("return_prompt_token_ids"):
            answer["prompt_token_ids"] = sequence.input_ids.tolist()
        return answer
