"""A slim Qwen2-VL: packed sequences, one set of modules for training and for inference."""

from umer1.model.attention import PackedAttention
from umer1.model.checkpoint import load_model, save_model
from umer1.model.config import ModelConfig, VisionConfig
from umer1.model.packed_weights import PackedWeights, pack_weights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.rope_index import rope_index
from umer1.model.sequence import Packed, Sequence, pack
from umer1.model.tokens import add_embedding_tokens

__all__ = [
    "ModelConfig",
    "Packed",
    "PackedAttention",
    "PackedWeights",
    "Qwen2VL",
    "Sequence",
    "VisionConfig",
    "add_embedding_tokens",
    "load_model",
    "pack",
    "pack_weights",
    "rope_index",
    "save_model",
]
