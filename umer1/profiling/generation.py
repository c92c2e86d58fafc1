"""Prefill and decoding of the engine as workloads, on synthetic prompts of stated sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from umer1.embedder import BUNDLED
from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.model.checkpoint import load_model
from umer1.model.config import ModelConfig
from umer1.model.sequence import Sequence
from umer1.profiling.ranges import model_stages, stage
from umer1.profiling.request import Request
from umer1.profiling.workload import Workload

NO_TOKEN = -1  # never sampled: every rollout writes as many tokens as it may
TEXT_IDS = 200  # of any Qwen2 tokenizer these are bytes: no token with a meaning of its own


def build_generation(request: Request) -> Workload:
    """`umer1.engine.generate`: up to the first token, or all steps after it."""
    device = torch.device(request.device)
    dtype = getattr(torch, request.dtype or ("bfloat16" if request.device == "cuda" else "float32"))
    model = load_model(BUNDLED.get(request.model, request.model), dtype=dtype, device=device)
    sizes, decoding = request.sizes, request.target == "decode"
    prompts = [
        Prompt(synthetic_prompt(model.config, sizes["tokens"], sizes["image"], number), number)
        for number in range(sizes["prompts"])
    ]
    samples = sizes["samples"] if decoding else 1
    sampling = Sampling(sizes["new"] if decoding else 1, temperature=1.0 if decoding else 0.0)

    def generate(graphs: bool) -> None:
        engine = NativeEngine(
            model, SpecialTokens(NO_TOKEN, NO_TOKEN), slots=len(prompts) * samples, graphs=graphs
        )
        for _ in engine.submit(prompts, sampling, samples=samples):
            pass

    def run() -> None:
        # a kernel inside a replayed graph has lost the stage that launched it
        with model_stages(model), stage("engine"):
            generate(graphs=False)

    about = [f"model {request.model}: {_parameters(model):.3g} million parameters"]
    if request.device == "cuda" and decoding:
        about.append(f"plain calls, so that kernels keep their stages; {_recorded(generate)}")
    begins = "decode" if decoding else ""
    return Workload(run, dtype, about, begins, dtype.itemsize)


def _recorded(generate: Callable[[bool], None]) -> str:
    """What the same takes with its steps recorded as graphs, the recording included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    generate(True)
    torch.cuda.synchronize()
    return f"recorded as graphs, recording included, all takes {time.perf_counter() - began:.2f} s"


def synthetic_prompt(config: ModelConfig, tokens: int, visual_tokens: int, seed: int) -> Sequence:
    """Random text of `tokens` tokens, behind an image of `visual_tokens` if there are any."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(TEXT_IDS, (visual_tokens + tokens,), generator=generator)
    mask = torch.arange(len(ids)) < visual_tokens
    ids[mask] = config.image_token_id
    if not visual_tokens:
        return Sequence(ids, mask, None, torch.zeros(0, 3, dtype=torch.int64))
    merge = config.vision.spatial_merge_size
    height = _divisor_below_root(visual_tokens)
    grid = torch.tensor([[1, height * merge, visual_tokens // height * merge]])
    pixels = torch.randn(visual_tokens * merge**2, config.vision.patch_dim, generator=generator)
    return Sequence(ids, mask, pixels, grid)


def _divisor_below_root(number: int) -> int:
    return max(part for part in range(1, math.isqrt(number) + 1) if number % part == 0)


def _parameters(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
