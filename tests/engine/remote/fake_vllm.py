"""vLLM's protocol over our own model."""

from __future__ import annotations

from fake_server import MAX_TOKENS, FakeServer, Refused, only, picture
from fastapi import Request
from PIL import Image


class FakeVllm(FakeServer):
    """`vllm serve --enable-scale-out` with VLLM_SERVER_DEV_MODE=1."""

    paused = False

    def routes(self) -> None:
        app = self.app

        @app.post("/inference/v1/generate")
        async def generate(request: Request):
            body = await self.body(request)
            only(
                body,
                {"token_ids", "sampling_params", "return_token_ids", "content_parts", "model"},
                "request",
            )
            wanted = body["sampling_params"]
            only(
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
            return [picture(part["url"], "data:image/png;base64,")]
        prefix = "data:video/jpeg;base64,"
        assert part["type"] == "video_url" and part["url"].startswith(prefix)
        return [picture(frame, "") for frame in part["url"].removeprefix(prefix).split(",")]
