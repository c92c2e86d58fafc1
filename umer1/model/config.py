"""The model's configuration: two frozen dataclasses, read from and written as HF `config.json`.

Two forms of `config.json` are read: the flat one of the original hub checkpoints (text fields at
the root, `rope_scaling` of type "mrope") and the nested one of transformers 5 (`text_config`,
`rope_parameters`). The flat form is written: transformers 4.45 to 5, vLLM and SGLang read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

MODEL_TYPE = "qwen2_vl"
ARCHITECTURE = "Qwen2VLForConditionalGeneration"


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision tower. `hidden_size` is the decoder's width, `embed_dim` the tower's own."""

    depth: int
    embed_dim: int
    hidden_size: int
    num_heads: int
    mlp_ratio: int = 4
    in_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "vision_config")
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(
                f"vision_config.embed_dim {self.embed_dim} must be a multiple of 4 * num_heads "
                f"({4 * self.num_heads}): the rotary embedding halves each head twice"
            )

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Numbers per patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Qwen2-VL model: decoder fields at this level, the tower in `vision`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vision: VisionConfig
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    bos_token_id: int | None = 151643
    eos_token_id: int | list[int] | None = 151645
    pad_token_id: int | None = None
    dtype: str = "float32"
    """Element type of the saved weights, as torch names it."""
    matryoshka_dimensions: tuple[int, ...] = ()
    """Lengths that the vectors may be cut to, if training saw to it (vLLM reads the same name)."""
    aligned_modes: bool = False
    """Training made one space of gen and disc vectors: queries of one mode may search the other's."""

    def __post_init__(self) -> None:
        _require_positive(self, "config")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"config.hidden_size {self.hidden_size} must be a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"config.num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if len(self.mrope_section) != 3 or sum(self.mrope_section) * 2 != self.head_dim:
            raise ValueError(
                f"config.mrope_section {list(self.mrope_section)} must be three sizes that sum to "
                f"half of head_dim ({self.head_dim} / 2)"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"config dtype is {self.dtype!r}, want float32, bfloat16 or float16")
        if self.vision.hidden_size != self.hidden_size:
            raise ValueError(
                f"config.vision_config.hidden_size {self.vision.hidden_size} must equal the "
                f"decoder's hidden_size {self.hidden_size}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Reads a parsed `config.json`. Raises ValueError naming a field that is not supported."""
        if data.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"config model_type is {data.get('model_type')!r}, want {MODEL_TYPE!r}"
            )
        text = data.get("text_config") or {}

        def pick(name: str, default: Any = None) -> Any:
            return text[name] if text.get(name) is not None else data.get(name, default)

        _refuse_unsupported(pick, data)
        rope = pick("rope_parameters") or pick("rope_scaling") or {}
        values = {
            name: value
            for name in (item.name for item in fields(cls) if item.name != "vision")
            if (value := pick(name)) is not None
        }
        # Media ids live at the root; transformers 4 repeats stale ones in the text part.
        values |= {name: data[name] for name in _MEDIA_IDS if data.get(name) is not None}
        values.setdefault("rms_norm_eps", 1e-5)  # transformers' default where the file is silent
        values["tie_word_embeddings"] = bool(
            data.get("tie_word_embeddings") or text.get("tie_word_embeddings")
        )
        values["mrope_section"] = tuple(rope.get("mrope_section", (16, 24, 24)))
        values["rope_theta"] = float(rope.get("rope_theta") or pick("rope_theta", 1e6))
        values["matryoshka_dimensions"] = tuple(data.get("matryoshka_dimensions") or ())
        values["aligned_modes"] = data.get("aligned_modes") is True
        values["dtype"] = str(pick("dtype") or pick("torch_dtype") or "float32")
        values["vision"] = _vision_from_dict(data.get("vision_config"))
        missing = [
            item.name
            for item in fields(cls)
            if item.name not in values and item.name in _TEXT_REQUIRED
        ]
        if missing:
            raise ValueError(f"config lacks the field(s) {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The flat `config.json` of the original Qwen2-VL checkpoints."""
        skip = {"vision", "mrope_section", "dtype", "matryoshka_dimensions", "aligned_modes"}
        data: dict[str, Any] = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
        data |= {
            item.name: getattr(self, item.name) for item in fields(self) if item.name not in skip
        }
        data |= {
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "rope_scaling": {"type": "mrope", "mrope_section": list(self.mrope_section)},
            "torch_dtype": self.dtype,
            "use_cache": True,
            "use_sliding_window": False,
        }
        if self.matryoshka_dimensions:
            data["matryoshka_dimensions"] = list(self.matryoshka_dimensions)
        if self.aligned_modes:
            data["aligned_modes"] = True
        vision = {item.name: getattr(self.vision, item.name) for item in fields(self.vision)}
        # Both spellings: the hub's files say in_chans, transformers' class says in_channels.
        data["vision_config"] = vision | {
            "hidden_act": "quick_gelu",
            "in_chans": self.vision.in_channels,
            "model_type": MODEL_TYPE,
            "spatial_patch_size": self.vision.patch_size,
        }
        return data


_TEXT_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_MEDIA_IDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
_VISION_REQUIRED = ("depth", "embed_dim", "hidden_size", "num_heads")


def _vision_from_dict(data: dict[str, Any] | None) -> VisionConfig:
    if not data:
        raise ValueError("config lacks vision_config")
    values = {item.name: data[item.name] for item in fields(VisionConfig) if item.name in data}
    if "in_channels" not in values and "in_chans" in data:
        values["in_channels"] = data["in_chans"]
    missing = [name for name in _VISION_REQUIRED if name not in values]
    if missing:
        raise ValueError(f"config.vision_config lacks the field(s) {', '.join(missing)}")
    if data.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise ValueError(
            f"config.vision_config.hidden_act is {data['hidden_act']!r}, want 'quick_gelu'"
        )
    theta = (data.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    if theta != 10000.0:
        raise ValueError(f"config.vision_config rope_theta is {theta!r}, want 10000.0")
    return VisionConfig(**values)


def _refuse_unsupported(pick: Any, data: dict[str, Any]) -> None:
    """One ValueError for a field whose value would change the computation."""
    rope = pick("rope_parameters") or pick("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"config rope type is {kind!r}, want 'mrope' or 'default'")
    if pick("hidden_act", "silu") != "silu":
        raise ValueError(f"config.hidden_act is {pick('hidden_act')!r}, want 'silu'")
    if pick("use_sliding_window", False):
        raise ValueError("config.use_sliding_window is true, want false (full attention)")
    if pick("attention_dropout", 0.0):
        raise ValueError(f"config.attention_dropout is {pick('attention_dropout')!r}, want 0")
    if data.get("quantization_config"):
        raise ValueError("config.quantization_config is set; only unquantised weights are read")


def _require_positive(config: Any, where: str) -> None:
    for item in fields(config):
        value = getattr(config, item.name)
        counted = item.type == "int" and not item.name.endswith("_token_id")
        if counted and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{where}.{item.name} is {value!r}, want an integer above 0")
