"""UME-R1 as a model of sentence-transformers (6.2): discriminative and generative vectors, and training.

    from umer1.integrations.sentence_transformers import to_sentence_transformer

    model = to_sentence_transformer("zhibinlan/UME-R1-2B", mode="disc")
    model.encode_query("a red bicycle")
    model.encode_document([picture, {"text": "bought in 1998", "image": picture}])
    model.encode("a red bicycle", mode="gen")               # reasons first
    model.save_pretrained("out")

    SentenceTransformer("out", trust_remote_code=True)      # needs this package to be installed

The saved directory is also a checkpoint of transformers and of this project. Vectors are those of
`Embedder.encode`. With gradients disc vectors come from the plain forward, so that
SentenceTransformerTrainer can train them; a gen vector has none, for the tokens before it are sampled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from umer1.embedder import BUNDLED
from umer1.engine import Generated, NativeEngine, Prompt, Sampling, SpecialTokens, generate
from umer1.hub import SMALL_FILES, WEIGHTS, local_directory
from umer1.integrations.sentence_transformers_inputs import (
    MODALITIES,
    as_item,
    features_of,
    padded,
    sequences_of,
)
from umer1.model.checkpoint import load_model, read_config, save_model
from umer1.model.packed_weights import inference_dtype, obstacle, pack_weights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack
from umer1.processor import Processor
from umer1.prompts import parse_response

log = logging.getLogger("umer1")


def to_sentence_transformer(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    prompts: dict[str, str] | None = None,
    **settings: Any,
) -> SentenceTransformer:
    """A SentenceTransformer of "tiny", a directory or a hub id.

    Args:
        dtype: of the weights; default as in `Embedder.load`. To train, load float32 and let the trainer's
            `bf16=True` cast.
        prompts: as in SentenceTransformer, for example {"query": "Find a picture of: "}.
        settings: those of `Umer1`.
    """
    module = Umer1.from_checkpoint(name, dtype=dtype, **settings)
    return SentenceTransformer(modules=[module], device=device, prompts=prompts)


class Umer1(InputModule):
    """The only module of such a model. `encode` takes `forward_kwargs` for one call.

    Args:
        mode: "disc" (one forward) or "gen" (reason, summarise, then read).
        max_new_tokens, stop, max_think_tokens, readout: see `Embedder.encode`.
    """

    config_file_name = "sentence_umer1_config.json"
    config_keys = ["mode", "max_new_tokens", "stop", "max_think_tokens", "readout"]
    forward_kwargs = {"mode", "max_new_tokens", "max_think_tokens"}
    modalities = MODALITIES

    def __init__(
        self,
        model: Qwen2VL,
        processor: Processor,
        *,
        mode: str = "disc",
        max_new_tokens: int = 512,
        stop: str = "first",
        max_think_tokens: int | None = None,
        readout: str = "at",
    ):
        super().__init__()
        Sampling(max_new_tokens, stop=stop, max_think_tokens=max_think_tokens)  # checks them
        if readout not in ("at", "after"):
            raise ValueError(f"readout: got {readout!r}, wants 'at' or 'after'")
        self.model, self.processor = model, processor
        self.mode, self.max_new_tokens, self.stop = _known(mode), max_new_tokens, stop
        self.max_think_tokens, self.readout = max_think_tokens, readout
        self._engine: NativeEngine | None = None
        self._learned = False  # since the engine last ran

    @classmethod
    def from_checkpoint(
        cls, name: str | Path, *, dtype: torch.dtype | None = None, **settings: Any
    ) -> Umer1:
        """From "tiny", a directory or a hub id; on the CPU."""
        source = local_directory(BUNDLED.get(str(name), name), SMALL_FILES + WEIGHTS)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or inference_dtype(read_config(source), device)
        return cls(load_model(source, dtype=dtype), Processor.load(source), **settings)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> Umer1:
        """What SentenceTransformer(path) calls. `model_kwargs` may have "dtype"."""
        where = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        given = dict(model_kwargs or {})
        dtype = given.pop("dtype", None) or given.pop("torch_dtype", None)
        if given:
            raise ValueError(f"model_kwargs: got {', '.join(map(repr, given))}, wants only 'dtype'")
        if isinstance(dtype, str):
            dtype = None if dtype == "auto" else getattr(torch, dtype)
        settings = cls.load_config(model_name_or_path, **where)
        directory = cls.load_dir_path(model_name_or_path, **where)
        return cls.from_checkpoint(directory, dtype=dtype, **settings)

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """A checkpoint that transformers and `Embedder.load` read too."""
        if not safe_serialization:
            raise ValueError("safe_serialization: got False, weights are written as safetensors")
        save_model(self.model, output_path)
        self.processor.save(output_path)
        self.save_config(output_path)

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    def get_embedding_dimension(self) -> int:
        return self.model.config.hidden_size

    def preprocess(
        self,
        inputs: list,
        prompt: str | None = None,
        *,
        task: str | None = None,
        mode: str | None = None,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Prompts as padded tensors, see `features_of`. The text of `prompt` goes before each input's.

        Raises:
            ValueError: a bad input (the message names its place), or one longer than `max_length`: a
                prompt cannot be cut, for its vector is read at its end.
        """
        mode = _known(mode or self.mode)
        sequences = []
        for place, given in enumerate(inputs):
            item = as_item(given, prompt or "", where=f"input {place}")
            sequence = self.processor.encode(item, mode=mode, readout=self.readout)
            if max_length is not None and len(sequence) > max_length:
                raise ValueError(
                    f"input {place}: its prompt has {len(sequence)} tokens, max_length is {max_length}"
                )
            sequences.append(sequence)
        return features_of(sequences, self.processor.pad_id)

    def forward(
        self,
        features: dict[str, Tensor],
        mode: str | None = None,
        max_new_tokens: int | None = None,
        max_think_tokens: int | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Adds `sentence_embedding` float32 [B, H], L2-normalised.

        In gen mode also `completion_ids` int64 [B, L], padded, which `read` turns into text, and `hit`
        bool [B]: whether `<gen_emb>` was written.
        """
        mode, sequences = _known(mode or self.mode), sequences_of(features)
        learns = torch.is_grad_enabled()
        if mode == "disc":
            vectors = self._learn(sequences) if learns else self._disc(sequences)
            return features | {"sentence_embedding": vectors}
        if learns and self.training:
            raise RuntimeError(
                "mode: 'gen' has no gradient; train disc vectors here, and both with `umer1 train`"
            )
        think = self.max_think_tokens if max_think_tokens is None else max_think_tokens
        written = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        sampling = Sampling(written, stop=self.stop, max_think_tokens=think)
        rollouts = [result.rollouts[0] for result in self._generated(sequences, sampling)]
        hit = torch.tensor([rollout.hit for rollout in rollouts])
        if not hit.all():
            log.warning("%d of %d generations wrote no <gen_emb>", int((~hit).sum()), len(hit))
        tokens = [torch.tensor(rollout.tokens) for rollout in rollouts]
        return features | {
            "sentence_embedding": torch.stack([rollout.vector for rollout in rollouts]),
            "completion_ids": padded(tokens, self.processor.pad_id),
            "hit": hit,
        }

    def read(self, completion_ids: Tensor) -> tuple[str, str]:
        """(reasoning, summary) of one row of `completion_ids`."""
        return parse_response(self.processor.decode(completion_ids))

    def _learn(self, sequences: list[Sequence]) -> Tensor:
        self._learned = True
        packed = pack(sequences, self.model.config.vision.spatial_merge_size)
        ends = packed.cu_seqlens[1:].to(self.model.device, torch.int64) - 1
        hidden = self.model(packed.to(self.model.device), keep=ends)
        return F.normalize(hidden.float(), dim=-1)

    # encode() runs in inference mode, whose tensors the engine could not write to outside of it
    @torch.inference_mode(False)
    @torch.no_grad()
    def _disc(self, sequences: list[Sequence]) -> Tensor:
        prompts = [Prompt(each, place, len(each) - 1) for place, each in enumerate(sequences)]
        vectors = [None] * len(prompts)
        with self._ready(len(prompts)) as engine:
            for finished in engine.submit(prompts, Sampling(1), samples=0):
                vectors[finished.prompt] = finished.disc
        return torch.stack(vectors)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _generated(self, sequences: list[Sequence], sampling: Sampling) -> list[Generated]:
        prompts = [Prompt(each, place) for place, each in enumerate(sequences)]
        # parameters stay where optimizers and .to() look for them
        packing = nullcontext() if obstacle(self.model) else pack_weights(self.model, keep=True)
        with packing, self._ready(len(prompts)) as engine:
            return generate(engine, prompts, sampling)

    @contextmanager
    def _ready(self, rows: int) -> Iterator[NativeEngine]:
        """The engine; another one when the model has moved."""
        place = (self.model.device, self.model.dtype)
        if self._engine is None or self._place != place:
            self._engine = NativeEngine(self.model, SpecialTokens.of(self.processor))
            self._place = place
        if self._learned:
            # not every optimizer's writes can be seen
            self._engine.load((), self._engine.version + 1)
            self._learned = False
        self._engine.resize(max(rows, self._engine.slots))
        training = self.model.training
        self.model.eval()
        try:
            yield self._engine
        finally:
            self.model.train(training)

    def __getstate__(self) -> dict:
        # processes of a pool make their own
        return {**self.__dict__, "_engine": None}


def _known(mode: str) -> str:
    if mode not in ("disc", "gen"):
        raise ValueError(f"mode: got {mode!r}, wants 'disc' or 'gen'")
    return mode
