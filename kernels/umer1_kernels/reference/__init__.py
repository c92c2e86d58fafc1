"""The kernel library in plain PyTorch: readable, any dtype up to float64, any device.

These are the truth the other backends are tested against. They hold their logits in memory.
"""

from umer1_kernels.reference.decode_attention import append_kv, decode_attention
from umer1_kernels.reference.hidden_gather import gather_hidden
from umer1_kernels.reference.info_nce import dual_info_nce, info_nce
from umer1_kernels.reference.linear_loss import grpo_loss, linear_cross_entropy, linear_logprob
from umer1_kernels.reference.reward import group_reward
from umer1_kernels.reference.sampler import sample_tokens

__all__ = [
    "append_kv",
    "decode_attention",
    "dual_info_nce",
    "gather_hidden",
    "group_reward",
    "grpo_loss",
    "info_nce",
    "linear_cross_entropy",
    "linear_logprob",
    "sample_tokens",
]
