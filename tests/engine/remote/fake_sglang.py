"""SGLang's protocol over our own model."""

from __future__ import annotations

from fake_server import MAX_TOKENS, FakeServer, Refused, only, picture
from fastapi import Request
from fastapi.responses import JSONResponse


class FakeSGLang(FakeServer):
    """`sglang.launch_server --return-hidden-states-mode last --enable-memory-saver`."""

    gives_states = True

    def routes(self) -> None:
        app = self.app

        @app.post("/vertex_generate")
        async def vertex_generate(request: Request):
            body = await self.body(request)
            only(body, {"instances", "parameters"}, "request")
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
            only(body, {"model_path", "weight_version", "flush_cache"}, "request")
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
        only(
            body,
            {"input_ids", "sampling_params", "return_hidden_states", "return_logprob",
             "return_prompt_token_ids", "image_data"},
            "request",
        )  # fmt: skip
        wanted = body["sampling_params"]
        only(
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
        images = [[picture(uri, "data:image/png;base64,")] for uri in body.get("image_data", [])]
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
