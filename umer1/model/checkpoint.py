"""Loading and saving Hugging Face checkpoints of Qwen2-VL, safetensors only.

model = load_model("zhibinlan/UME-R1-2B", dtype=torch.bfloat16)
save_model(model, "out")            # transformers, vLLM and SGLang load it
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from umer1.hub import SMALL_FILES, WEIGHTS, local_directory
from umer1.model.config import ModelConfig
from umer1.model.key_names import canonical_key, checkpoint_tensors
from umer1.model.qwen2_vl import Qwen2VL

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def load_model(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Qwen2VL:
    """A model from a checkpoint directory or, when there is no such directory, a hub id.

    dtype: default the one the config names. Raises ValueError for a directory without safetensors,
    another model type, and keys that are missing, unexpected or of another shape.
    """
    directory = local_directory(path, SMALL_FILES + WEIGHTS)
    config = read_config(directory)
    files = _weight_files(directory)
    dtype = dtype or getattr(torch, config.dtype)
    with torch.device("meta"):
        model = Qwen2VL(config).to(dtype)
    model.to_empty(device=device)
    _fill(model, files, directory)
    return model.eval()


def save_model(
    model: Qwen2VL, directory: str | os.PathLike[str], *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Writes config.json and safetensors with the original key names.

    Each file is written under a temporary name and renamed, the index last: a reader never sees
    half a file.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for entry in checkpoint_tensors(model):
        tensor = entry.read().to("cpu")
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][entry.key] = tensor
        size += tensor.nbytes
    names = [_SINGLE]
    if len(shards) > 1:
        names = [
            f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)
        ]
    for name, shard in zip(names, shards, strict=True):
        with _replacing(directory / name) as temporary:
            save_file(shard, temporary, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        index = {
            "metadata": {"total_size": total},
            "weight_map": {
                key: name for name, shard in zip(names, shards, strict=True) for key in shard
            },
        }
        _write_json(directory / _INDEX, index)
    config = model.config.to_dict() | {"torch_dtype": str(model.dtype).removeprefix("torch.")}
    _write_json(directory / "config.json", config)
    for stale in directory.glob("model*.safetensors*"):
        if stale.name not in names and not (len(shards) > 1 and stale.name == _INDEX):
            stale.unlink()


def read_config(directory: Path) -> ModelConfig:
    """The ModelConfig of a checkpoint directory."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} has no config.json")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return ModelConfig.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _weight_files(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{index} is not a safetensors index with a weight_map") from None
        names = sorted(set(weight_map.values()))
        for name in names:
            if Path(name).name != name:
                raise ValueError(f"{index} names the file {name!r}, want one beside it")
            if not (directory / name).is_file():
                raise ValueError(f"{index} names {name!r}, which is not there")
        return [directory / name for name in names]
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    pickles = sorted(file.name for file in directory.glob("*.bin"))
    found = f"; {pickles[0]} is a pickle, which is not read" if pickles else ""
    raise ValueError(f"{directory} has no {_SINGLE} and no {_INDEX}{found}")


@torch.no_grad()
def _fill(model: Qwen2VL, files: list[Path], directory: Path) -> None:
    targets = {entry.key: entry for entry in checkpoint_tensors(model)}
    missing = set(targets)
    unexpected, misshaped = [], []
    tied_head: Tensor | None = None
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for original in list(tensors.keys()):
                    key = canonical_key(original)
                    if key is None:
                        continue
                    if key == "lm_head.weight" and model.head is None:
                        tied_head = tensors.get_tensor(original)
                    elif key not in targets:
                        unexpected.append(original)
                    else:
                        missing.discard(key)
                        shape = tuple(tensors.get_slice(original).get_shape())
                        if shape == targets[key].shape:
                            targets[key].write(tensors.get_tensor(original))
                        else:
                            misshaped.append(f"{original} {shape}, want {targets[key].shape}")
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}") from None
    problems = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if keys
    ]
    if problems:
        raise ValueError(f"{directory}: the weights do not fit config.json: {'; '.join(problems)}")
    if tied_head is not None and not torch.equal(
        tied_head.to(model.head_weight), model.head_weight
    ):
        raise ValueError(
            f"{directory}: config.json ties the head to the embedding table, but lm_head.weight "
            "differs from it; set tie_word_embeddings to false"
        )


def _write_json(path: Path, data: dict) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
