"""Generation by SGLang: tokens, vectors and log-probabilities all from the server.

    python -m sglang.launch_server --model-path MODEL --return-hidden-states-mode last
    engine = sglang_engine(["http://localhost:30000"], config, processor)

`return_hidden_states: "last"` gives the state, after the final norm, of the input that wrote the
last token. A model that ends its turn after `<gen_emb>` writes that token from the very state that
is the vector. Where something else came last (the text was cut, or went on after `<gen_emb>`), one
more token after the part that counts brings the state; its prefix is in the server's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from umer1.engine.remote.engine import ROWS, RemoteEngine
from umer1.engine.remote.http_client import Http
from umer1.engine.remote.server import Completion, state_tensor
from umer1.engine.remote.weights import WeightSource
from umer1.engine.remote.wire import WirePrompt
from umer1.engine.requests import Sampling, SpecialTokens
from umer1.model.config import ModelConfig
from umer1.processor import Processor


def sglang_engine(
    urls: Sequence[str],
    config: ModelConfig,
    processor: Processor,
    *,
    weights_directory: str | Path | None = None,
    key: str | None = None,
    rows: int = ROWS,
) -> RemoteEngine:
    """An engine over SGLang servers that run the same checkpoint. Images, no videos: SGLang's HTTP
    interface takes video files alone, and chooses the frames itself.

    The tokens of a `</think>` that was written for the model (`max_think_tokens`) have NaN as
    log-probability: the server did not choose them. At temperatures above 0 samples repeat only on
    a server with --enable-deterministic-inference.

    Args:
        weights_directory: `load` sends weights through it, see `WeightSource`.
        key: the servers' --api-key.
        rows: requests under way at once, per server.
    """
    return RemoteEngine(
        [SGLangServer(url, key=key) for url in urls],
        SpecialTokens.of(processor),
        config,
        processor.pixel_format,
        weights=WeightSource(config, weights_directory),
        rows=rows,
    )


class SGLangServer:
    """One SGLang server; its protocol as of 0.5.23."""

    gives_states = True
    takes_videos = False

    def __init__(self, url: str, *, key: str | None = None):
        self.http = Http(url, key=key)
        self.url = self.http.url

    async def complete(
        self,
        prompt: WirePrompt,
        written: list[int],
        count: int,
        stop: list[int],
        sampling: Sampling,
        seed: int,
    ) -> Completion:
        """See `Server.complete`; SGLang also stops at the end tokens of its own configuration."""
        settings = {
            "max_new_tokens": count,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "skip_special_tokens": False,
        }
        if stop:
            settings["stop_token_ids"] = stop
        if sampling.temperature:
            settings["sampling_seed"] = seed
        instance: dict = {"input_ids": prompt.ids + written}
        if prompt.media:
            instance["image_data"] = [
                f"data:image/png;base64,{medium.frames[0]}" for medium in prompt.media
            ]
        parameters = {
            "sampling_params": settings,
            "return_hidden_states": "last",
            "return_logprob": True,
            "return_prompt_token_ids": True,
        }
        # the one route that takes token ids, pictures and "last" together: the schema of /generate
        # knows only true and false, and the others of OpenAI's kind drop pictures beside token ids
        body = {"instances": [instance], "parameters": parameters}
        (answer,) = (await self.http.post("/vertex_generate", body, again=True))["predictions"]
        self._check(answer, prompt.whole + written)
        about = answer["meta_info"]
        logprobs = [each[0] for each in about["output_token_logprobs"]]
        return Completion(answer["output_ids"], logprobs, state_tensor(about["hidden_states"]))

    def _check(self, answer: dict, sent: list[int]) -> None:
        read = answer["prompt_token_ids"]
        if read != sent:
            raise RuntimeError(
                f"{self.url}: read {len(read)} prompt tokens, {len(sent)} were sent: it has resized "
                "the pictures, or split the text anew. Give the checkpoint's preprocessor_config "
                "the limits of this model, and leave SGLANG_MM_AVOID_RETOKENIZE on"
            )
        if "hidden_states" not in answer["meta_info"]:
            raise RuntimeError(
                f"{self.url}: gives no states: start it with --return-hidden-states-mode last"
            )

    async def longest(self) -> int:
        return (await self.http.get("/server_info"))["max_req_input_len"]

    async def load(self, directory: str, version: int) -> None:
        """See `Server.load`: SGLang waits for what runs, and forgets its keys and values."""
        body = {"model_path": directory, "weight_version": str(version), "flush_cache": True}
        answer = await self.http.post("/update_weights_from_disk", body)
        if not answer["success"]:
            raise RuntimeError(f"{self.url}: {answer['message']}")

    async def sleep(self) -> None:
        await self.http.post("/release_memory_occupation", {"tags": ["kv_cache"]})

    async def wake(self) -> None:
        await self.http.post("/resume_memory_occupation", {"tags": ["kv_cache"]})

    async def close(self) -> None:
        await self.http.close()
