"""A processor on disk: the tokenizer's files, transformers' preprocessor configs, and `umer1.json`.

`umer1.json` holds, under "limits", the `MediaLimits` that this project obeys. The pixel limits in
the preprocessor configs are copies for other programs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from umer1.hub import SMALL_FILES, local_directory
from umer1.media import MediaLimits, PixelFormat

OURS, IMAGES, VIDEOS = "umer1.json", "preprocessor_config.json", "video_preprocessor_config.json"
UNIFIED = "processor_config.json"  # transformers 5 keeps the image processor's config in here
TEMPLATE = "chat_template.jinja"

# ChatML as Qwen2-VL's template writes it, for tokenizers that come without one
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if loop.first and message['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' or 'video' in part %}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part['text'] }}"
    "{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(slots=True)
class Files:
    """What `Processor.load` finds."""

    tokenizer: Any
    pixel_format: PixelFormat
    limits: dict | None  # as in umer1.json; None without one


def read_files(path_or_hub_id: str | Path, tokenizer: Any = None) -> Files:
    """Read a directory or hub repository; no preprocessor config there means Qwen2-VL's values."""
    directory = local_directory(path_or_hub_id, SMALL_FILES)
    tokenizer = tokenizer or load_tokenizer(directory)
    ours = _read_json(directory / OURS) or {}
    unified = _read_json(directory / UNIFIED) or {}
    config = unified.get("image_processor") or _read_json(directory / IMAGES) or {}
    return Files(tokenizer, _pixel_format(config, str(path_or_hub_id)), ours.get("limits"))


def write_files(
    directory: Path, tokenizer: Any, limits: MediaLimits, pixel_format: PixelFormat
) -> None:
    """Write a processor that `read_files` and transformers' AutoProcessor load."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    if not tokenizer.chat_template:
        (directory / TEMPLATE).write_text(CHAT_TEMPLATE, encoding="utf-8")
    shared = {
        "processor_class": "Qwen2VLProcessor",
        "patch_size": pixel_format.patch_size,
        "temporal_patch_size": pixel_format.temporal_patch_size,
        "merge_size": pixel_format.merge_size,
        "image_mean": list(pixel_format.mean),
        "image_std": list(pixel_format.std),
    }
    image = {
        **shared,
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": limits.image_min_pixels,
        "max_pixels": limits.image_max_pixels,
    }
    video = {
        **shared,
        "video_processor_type": "Qwen2VLVideoProcessor",
        "min_pixels": limits.video_min_pixels,
        "max_pixels": limits.video_max_pixels,
        "num_frames": limits.num_frames,
    }
    _write_json(directory / IMAGES, image)
    _write_json(directory / VIDEOS, video)
    _write_json(directory / OURS, {"limits": asdict(limits)})
    # one left from an earlier checkpoint would win over the files just written
    (directory / UNIFIED).unlink(missing_ok=True)


def _pixel_format(config: dict, source: str) -> PixelFormat:
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if not config.get(key, True):
            raise ValueError(
                f"{source}: preprocessor config with {key} off, wants it on as Qwen2-VL has it"
            )
    if abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"{source}: rescale_factor {config['rescale_factor']}, wants 1/255")
    names = {
        "patch_size": "patch_size",
        "temporal_patch_size": "temporal_patch_size",
        "merge_size": "merge_size",
    }
    names |= {"mean": "image_mean", "std": "image_std"}
    found = {
        ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) is not None
    }
    for name in ("mean", "std"):
        if name in found:
            found[name] = tuple(found[name])
    return PixelFormat(**found)


def load_tokenizer(path_or_hub_id: str | Path) -> Any:
    """A checkpoint's tokenizer, as it is: it may still lack the two embedding tokens."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(local_directory(path_or_hub_id, SMALL_FILES))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path_or_hub_id}: its tokenizer cannot be loaded: {error}") from None


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
