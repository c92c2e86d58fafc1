"""Generation by `vllm serve`: tokens from vLLM, vectors from one forward of our own model.

    vllm serve MODEL --enable-scale-out --generation-config vllm
    engine = vllm_engine(["http://localhost:8000"], model, processor)

vLLM gives no hidden states of Qwen2-VL. So our model, with the same weights, reads each finished
sequence once: that gives both vectors and exact log-probabilities. Prompts go as token ids and
pixels (`/inference/v1/generate`), so there is no template and no tokenizer to disagree about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from umer1.engine.remote.engine import ROWS, RemoteEngine
from umer1.engine.remote.http_client import Http
from umer1.engine.remote.reread import Reader
from umer1.engine.remote.server import Completion
from umer1.engine.remote.weights import WeightSource
from umer1.engine.remote.wire import WireMedium, WirePrompt
from umer1.engine.requests import Sampling, SpecialTokens
from umer1.model.packed_weights import PackedWeights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor


def vllm_engine(
    urls: Sequence[str],
    model: Qwen2VL,
    processor: Processor,
    *,
    packed: PackedWeights | None = None,
    weights_directory: str | Path | None = None,
    key: str | None = None,
    rows: int = ROWS,
) -> RemoteEngine:
    """An engine over vLLM servers that run the same checkpoint.

    Args:
        model: reads what vLLM writes; `load` writes to it too.
        packed: what packed the model's weights, if anything did.
        weights_directory: `load` sends weights through it, see `WeightSource`. The servers need
            VLLM_SERVER_DEV_MODE=1 for that, and for `sleep`.
        key: the servers' --api-key.
        rows: requests under way at once, per server.
    """
    return RemoteEngine(
        [VllmServer(url, key=key) for url in urls],
        SpecialTokens.of(processor),
        model.config,
        processor.pixel_format,
        reader=Reader(model),
        weights=WeightSource(model.config, weights_directory, model, packed),
        rows=rows,
    )


class VllmServer:
    """One `vllm serve`; tested with 0.32."""

    gives_states = False
    takes_videos = True

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
        """See `Server.complete`."""
        settings = {
            "max_tokens": count,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            # the only tokens that end a row are ours
            "ignore_eos": True,
            "stop_token_ids": stop,
            "detokenize": False,
        }
        if sampling.temperature:
            settings["seed"] = seed
        body = {
            "token_ids": prompt.ids + written,
            "sampling_params": settings,
            "return_token_ids": True,
        }
        if prompt.media:
            body["content_parts"] = [_part(medium) for medium in prompt.media]
        answer = await self.http.post("/inference/v1/generate", body, again=True)
        self._check_prompt(answer["prompt_token_ids"], prompt.whole + written)
        return Completion(answer["choices"][0]["token_ids"])

    def _check_prompt(self, read: list[int], sent: list[int]) -> None:
        """What vLLM has made of the media: it must be as many tokens as here."""
        if read != sent:
            raise RuntimeError(
                f"{self.url}: read {len(read)} prompt tokens, {len(sent)} were sent: it has resized "
                "the media. Start it with the limits of this model, for example "
                """--mm-processor-kwargs '{"min_pixels": 784, "max_pixels": 2359296}' """
                """and --media-io-kwargs '{"video": {"num_frames": -1}}'"""
            )

    async def longest(self) -> int:
        models = await self.http.get("/v1/models")
        return models["data"][0]["max_model_len"]

    async def load(self, directory: str, version: int) -> None:
        """See `Server.load`: requests of other clients finish with the old weights."""
        await self.http.post("/pause?mode=wait")
        try:
            rpc = {"method": "reload_weights", "kwargs": {"weights_path": directory}}
            await self.http.post("/collective_rpc", rpc)
            answer = await self.http.post("/reset_prefix_cache")
            if not answer["success"]:
                raise RuntimeError(f"{self.url}: keeps keys and values of the old weights")
            await self.http.post("/update_weight_version", {"new_version": str(version)})
        finally:
            await self.http.post("/resume")

    async def sleep(self) -> None:
        await self.http.post("/sleep?level=1&mode=wait")

    async def wake(self) -> None:
        await self.http.post("/wake_up")

    async def close(self) -> None:
        await self.http.close()


def _part(medium: WireMedium) -> dict[str, str]:
    if medium.kind == "image":
        return {"type": "image_url", "url": f"data:image/png;base64,{medium.frames[0]}"}
    # vLLM's name for a list of pictures; it opens each by its content
    return {"type": "video_url", "url": "data:video/jpeg;base64," + ",".join(medium.frames)}
