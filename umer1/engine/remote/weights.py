"""New weights for servers: a checkpoint directory that they can read, written and then deleted."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from umer1.engine.weights import write_weights
from umer1.model.config import ModelConfig
from umer1.model.key_names import canonical_key, checkpoint_tensors
from umer1.model.packed_weights import PackedWeights
from umer1.model.qwen2_vl import Qwen2VL

_FILE_BYTES = 4_000_000_000


class WeightSource:
    """What an engine over servers loads.

    Args:
        config: of the model that the servers run.
        directory: where checkpoints go while they are loaded; the servers see it under the same
            name (/dev/shm on one machine, a network disk between several). None: `load` is refused.
        model: our own copy of the weights, if there is one: it takes the new ones too, and is what
            the servers get.
        packed: what packed the model's weights, if anything did.
    """

    def __init__(
        self,
        config: ModelConfig,
        directory: str | Path | None,
        model: Qwen2VL | None = None,
        packed: PackedWeights | None = None,
    ):
        self.config, self.model, self.packed = config, model, packed
        self.directory = None if directory is None else Path(directory)

    @contextmanager
    def published(self, named: Iterable[tuple[str, Tensor]], version: int) -> Iterator[str]:
        """The directory of a checkpoint with the new weights, there until the block ends.

        Without a model of our own, `named` is all there is to send and must not be empty. Raises
        ValueError for a name or shape that the model does not have.
        """
        if self.directory is None:
            raise ValueError(
                "weights_directory: wants a directory that the servers see under the same name, "
                "new weights go through it"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        place = self.directory / f"umer1-weights-{version}-{uuid.uuid4().hex[:8]}"
        place.mkdir()
        try:
            if self.model is None:
                self._save(place, self._checked(named))
            else:
                write_weights(self.model, self.packed, named)
                plain = nullcontext() if self.packed is None else self.packed.undone()
                with plain:
                    entries = checkpoint_tensors(self.model)
                    self._save(place, ((entry.key, entry.read()) for entry in entries))
            yield str(place)
        finally:
            shutil.rmtree(place)

    def _checked(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        with torch.device("meta"):
            shapes = {entry.key: entry.shape for entry in checkpoint_tensors(Qwen2VL(self.config))}
        count = 0
        for name, tensor in named:
            key = canonical_key(name)
            if key is None or (key == "lm_head.weight" and self.config.tie_word_embeddings):
                continue
            if shapes.get(key) != tuple(tensor.shape):
                wanted = f"wants {shapes[key]}" if key in shapes else "the model has no such weight"
                raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, {wanted}")
            count += 1
            yield key, tensor
        if not count:
            raise ValueError("named: is empty, and this engine has no weights of its own to send")

    def _save(self, place: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Safetensors of bounded size, their index, and config.json."""
        where: dict[str, str] = {}
        batch: dict[str, Tensor] = {}
        size = number = 0

        def flush() -> None:
            nonlocal batch, size, number
            number += 1
            name = f"model-{number:05d}.safetensors"
            save_file(batch, place / name, metadata={"format": "pt"})
            where.update(dict.fromkeys(batch, name))
            batch, size = {}, 0

        for key, tensor in tensors:
            if batch and size + tensor.nbytes > _FILE_BYTES:
                flush()
            batch[key] = tensor.detach().to("cpu").contiguous()
            size += tensor.nbytes
        flush()
        index = {"metadata": {}, "weight_map": where}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
        (place / "config.json").write_text(json.dumps(self.config.to_dict()))
