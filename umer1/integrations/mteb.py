"""A UME-R1 checkpoint as a model of mteb (2.26), on this project's engine.

    import mteb
    from umer1.integrations.mteb import Umer1Encoder

    model = Umer1Encoder("zhibinlan/UME-R1-2B")            # mode="disc": without reasoning, fast
    mteb.evaluate(model, mteb.get_benchmark("ViDoRe(v2)"))

Prompts, greedy decoding, 8 frames a video and the blank picture of text-only inputs are those of
the wrapper that mteb ships, `mteb.models.model_implementations.ume_r1`, and so are the vectors in
gen mode, up to rounding. Here they do not depend on the batch size, for videos neither, and disc
vectors can be had. Videos are decoded by torchcodec where it is installed, else by PyAV.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import OutputDType, PromptType

from umer1.embedder import BUNDLED, Embedder
from umer1.hub import SMALL_FILES, WEIGHTS, local_directory
from umer1.model.qwen2_vl import Qwen2VL
from umer1.prompts import Item, Medium

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from torch.utils.data import DataLoader

FRAMES = 8  # of a video, as in the released evaluation
# what goes to the engine at once: enough rows that its slots stay full, and pictures in memory
CHUNK_ROWS, CHUNK_PIXELS = 1024, 200_000_000
ROWS = 32  # mteb's batch size where a task names none


class Umer1Encoder(AbsEncoder):
    """What `mteb.evaluate` and `mteb.mock_run` take.

    Args:
        model_name: what `Embedder.load` takes: "tiny", a directory or a hub id.
        revision: of a hub id; default: the one mteb has registered, if it knows the model.
        device: default: CUDA where there is one, else the CPU.
        mode: "gen" or "disc".
        max_new_tokens, stop: of the generation, see `Embedder.encode`. "eos" is the released rule;
            "first" saves the tokens after `<gen_emb>`.
        readout: of disc vectors, "at" `<disc_emb>` or one token "after" it.
        instructions: put mteb's instruction for the task before the text of queries (and of both
            sides where a task does not tell queries from documents). The released data has one
            before nearly every query; mteb's own wrapper writes none, hence off.
        dtype: see `Embedder.load`.

    What differs from the defaults is part of the name under which mteb keeps results.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        device: str | None = None,
        *,
        mode: str = "gen",
        max_new_tokens: int = 8192,
        stop: str = "eos",
        readout: str = "at",
        instructions: bool = False,
        dtype: torch.dtype | None = None,
    ):
        if mode not in ("gen", "disc"):
            raise ValueError(f"mode: got {mode!r}, wants 'gen' or 'disc'")
        known = None if _is_local(model_name) else MODEL_REGISTRY.get(model_name)
        revision = revision or (known.revision if known else None)
        source = _source(model_name, revision)
        self.model = Embedder.load(source, device=device, dtype=dtype)
        self.mode, self.instructions = mode, instructions
        self.settings = {"max_new_tokens": max_new_tokens, "stop": stop, "readout": readout}
        named = {"mode": mode, "instructions": instructions, "dtype": dtype, **self.settings}
        self.mteb_model_meta = _meta(self.model, named, model_name, revision, known)

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int = ROWS,
        show_progress_bar: bool = True,
        **_: Any,
    ) -> np.ndarray:
        """L2-normalised float32 [rows, D], in the order of `inputs`; `batch_size` changes none."""
        instruction = self._instruction(task_metadata, prompt_type) if self.instructions else ""
        items = (
            as_item(row, instruction, f"{task_metadata.name}, row {number}")
            for number, row in enumerate(_rows(inputs))
        )
        found = []
        for chunk in _chunks(items):
            encoded = self.model.encode(
                chunk,
                mode=self.mode,
                batch_size=batch_size,
                progress=show_progress_bar,
                **self.settings,
            )
            found.append(encoded.gen if self.mode == "gen" else encoded.disc)
        if not found:
            return np.zeros((0, self.model.dimension), np.float32)
        return np.concatenate(found)

    def _instruction(self, task_metadata: TaskMetadata, prompt_type: PromptType | None) -> str:
        """The task's instruction for this side; "" for documents unless the task has one for them."""
        of_side = isinstance(task_metadata.prompt, dict)
        if prompt_type == PromptType.document and not of_side:
            return ""
        if of_side and prompt_type and not task_metadata.prompt.get(prompt_type.value):
            return ""
        return self.get_task_instruction(task_metadata, prompt_type)


def as_item(row: dict[str, Any], instruction: str = "", where: str = "row") -> Item:
    """A row of an mteb data set: images, then the video, then the text. Media may be None.

    `where` names the row in messages about its media.
    """
    media = []
    images = row.get("image")
    for image in images if isinstance(images, list) else [images]:
        if image is not None:
            media.append(Medium("image", image, f"{where}, image"))
    if row.get("video") is not None:
        source = _video(row["video"], f"{where}, video")
        media.append(Medium("video", source, f"{where}, video", num_frames=FRAMES))
    text = " ".join(part for part in (instruction, row.get("text") or "") if part)
    return Item(text, tuple(media))


def _video(video: Any, where: str) -> Any:
    """A source that the engine decodes when the row's turn comes; frames where they are here."""
    if isinstance(video, dict):
        if video.get("bytes") is not None:
            return video["bytes"]
        if video.get("path"):
            return video["path"]
        raise ValueError(f"{where}: has neither bytes nor a path")
    if hasattr(video, "get_frames_at"):  # a decoder of torchcodec
        from mteb.models.modality_collators import FramesCollator

        video = FramesCollator.resample_video(video, num_frames=FRAMES)
    if isinstance(video, torch.Tensor):  # uint8 [T, C, H, W]
        return list(video.permute(0, 2, 3, 1).numpy())
    return video


def _rows(inputs: DataLoader) -> Iterator[dict[str, Any]]:
    """Row after row. Videos stay files: a decoded clip takes a hundred times its bytes."""
    for batch in _undecoded(inputs):
        names = list(batch)
        for values in zip(*(batch[name] for name in names)):
            yield dict(zip(names, values))


def _undecoded(inputs: DataLoader) -> Iterable[dict[str, list]]:
    from datasets import Dataset, Video
    from torch.utils.data import DataLoader

    dataset = inputs.dataset
    if not isinstance(dataset, Dataset):
        return inputs
    videos = [name for name, kind in dataset.features.items() if isinstance(kind, Video)]
    if not videos:
        return inputs
    for name in videos:
        dataset = dataset.cast_column(name, Video(decode=False))
    return DataLoader(
        dataset,
        batch_size=inputs.batch_size,
        collate_fn=inputs.collate_fn,
        num_workers=inputs.num_workers,
    )


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk, pixels = [], 0
    for item in items:
        chunk.append(item)
        pixels += sum(_pixels(medium.source) for medium in item.media)
        if len(chunk) >= CHUNK_ROWS or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _pixels(source: Any) -> int:
    """What a medium holds in memory, roughly; files count nothing."""
    if isinstance(source, list):
        return sum(map(_pixels, source))
    if isinstance(source, np.ndarray):
        return source.shape[0] * source.shape[1]
    return getattr(source, "width", 0) * getattr(source, "height", 0)


def _is_local(model_name: str) -> bool:
    return model_name in BUNDLED or Path(model_name).is_dir()


def _source(model_name: str, revision: str | None) -> str | Path:
    if revision is None or _is_local(model_name):
        return model_name
    return local_directory(model_name, SMALL_FILES + WEIGHTS, revision)


def _meta(
    model: Embedder,
    settings: dict[str, Any],
    model_name: str,
    revision: str | None,
    known: ModelMeta | None,
) -> ModelMeta:
    """What mteb keeps beside a result; of a local model, its revision is the digest of its files."""
    defaults = inspect.signature(Umer1Encoder).parameters
    changed = {
        name: str(value).removeprefix("torch.") if name == "dtype" else value
        for name, value in settings.items()
        if value != defaults[name].default
    }
    about = {
        "loader": Umer1Encoder,
        "experiment_kwargs": changed or None,
        "use_instructions": settings["instructions"],
        "output_dtypes": OutputDType.FLOAT32,
        # torchcodec and qwen-vl-utils are not needed
        "extra_requirements_groups": None,
    }
    if known is not None:
        return known.model_copy(update={**about, "revision": revision})
    local, config = _is_local(model_name), model.model.config
    with torch.device("meta"):  # the model's own weights may have been packed away
        parameters = sum(weight.numel() for weight in Qwen2VL(config).parameters())
    return ModelMeta.create_empty(
        {
            **about,
            "name": f"umer1/{Path(model_name).resolve().name}" if local else model_name,
            "revision": _digest(model_name) if local else revision,
            "modalities": ["text", "image", "video"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch", "safetensors"],
            "embed_dim": model.dimension,
            "n_parameters": parameters,
            "max_tokens": config.max_position_embeddings,
        }
    )


def _digest(model_name: str) -> str:
    # another checkpoint in the same place must not be taken for the one whose results are kept
    from umer1.cli.models import model_identity

    return model_identity(model_name).rpartition("@")[2]
