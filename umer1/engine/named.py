"""Engines by name: "native", "hf", "vllm:http://HOST:8000", "sglang:http://ONE:30000,http://TWO:30000"."""

from __future__ import annotations

import os
from typing import NamedTuple

from umer1.engine.protocol import Engine
from umer1.engine.requests import SpecialTokens

KEY_VARIABLE = "UMER1_ENGINE_KEY"
_LOCAL, _REMOTE = ("native", "hf"), ("vllm", "sglang")


class EngineName(NamedTuple):
    """kind: "native" | "hf" | "vllm" | "sglang"; urls: of its servers, none for the first two."""

    kind: str
    urls: tuple[str, ...] = ()

    @property
    def needs_model(self) -> bool:
        """Whether our own model runs, or reads what the servers write."""
        return self.kind in ("native", "vllm")

    @property
    def key(self) -> str | None:
        """The servers' API key, from the environment."""
        return os.environ.get(KEY_VARIABLE)


def engine_name(name: str) -> EngineName:
    """Raises ValueError for anything else."""
    kind, _, rest = name.partition(":")
    urls = tuple(filter(None, (url.strip() for url in rest.split(","))))
    addresses = all(url.startswith(("http://", "https://")) for url in urls)
    if (name in _LOCAL) or (kind in _REMOTE and urls and addresses):
        return EngineName(kind, urls)
    raise ValueError(
        f"engine: got {name!r}, wants 'native', 'hf', 'vllm:URL' or 'sglang:URL' "
        "(several servers: URL,URL)"
    )


def open_engine(
    named: EngineName,
    model,
    processor,
    *,
    packed=None,
    weights_directory=None,
    source=None,
    device="cpu",
) -> Engine:
    """The engine of that name, unless it is the native one.

    Args:
        model: a Qwen2VL; for engines that do not need it, one on the meta device.
        processor, packed: as in `Embedder`.
        weights_directory: new weights go to servers through it, see `vllm_engine`.
        source, device: where the checkpoint is and where "hf" runs it.
    """
    if named.kind == "hf":
        from umer1.engine.hf import HuggingFaceEngine

        special = SpecialTokens.of(processor)
        return HuggingFaceEngine.from_checkpoint(source, special, dtype=model.dtype, device=device)
    if named.kind == "sglang":
        from umer1.engine.remote.sglang import sglang_engine

        return sglang_engine(
            named.urls, model.config, processor, weights_directory=weights_directory, key=named.key
        )
    from umer1.engine.remote.vllm import vllm_engine

    return vllm_engine(
        named.urls,
        model,
        processor,
        packed=packed,
        weights_directory=weights_directory,
        key=named.key,
    )
