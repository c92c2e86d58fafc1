"""Fused losses, rewards, gathers and decoding for embedding models; imports with torch alone.

from umer1_kernels import info_nce, linear_cross_entropy, explain
loss = info_nce(query, target)                # any device; gradients as usual
print(explain(info_nce, query, target))       # which backend runs this, and why
"""

from umer1_kernels import reference
from umer1_kernels._version import __version__
from umer1_kernels.apply import KernelReport, apply_umer1_kernels
from umer1_kernels.backends import backend_status, explain
from umer1_kernels.decode_attention import (
    PrefixGroups,
    append_kv,
    decode_attention,
    prefix_groups,
)
from umer1_kernels.dual import DualInfoNCE
from umer1_kernels.extension import extension_status
from umer1_kernels.generation_hook import GenEmbHook
from umer1_kernels.hidden_gather import GenerationGather, gather_hidden
from umer1_kernels.info_nce import dual_info_nce, info_nce
from umer1_kernels.linear_loss import grpo_loss, linear_cross_entropy, linear_logprob
from umer1_kernels.reference.linear_loss import GRPOLoss
from umer1_kernels.reward import group_reward
from umer1_kernels.rollout_groups import GroupReward
from umer1_kernels.sampler import Sampled, sample_tokens
from umer1_kernels.segments import GatheredHidden
from umer1_kernels.value_and_grad import (
    DualInfoNCEGradients,
    InfoNCEGradients,
    dual_info_nce_value_and_grad,
    info_nce_value_and_grad,
)

__all__ = [
    "DualInfoNCE",
    "DualInfoNCEGradients",
    "GRPOLoss",
    "GatheredHidden",
    "GenEmbHook",
    "GenerationGather",
    "GroupReward",
    "InfoNCEGradients",
    "KernelReport",
    "PrefixGroups",
    "Sampled",
    "__version__",
    "append_kv",
    "apply_umer1_kernels",
    "backend_status",
    "decode_attention",
    "dual_info_nce",
    "dual_info_nce_value_and_grad",
    "explain",
    "extension_status",
    "gather_hidden",
    "group_reward",
    "grpo_loss",
    "info_nce",
    "info_nce_value_and_grad",
    "linear_cross_entropy",
    "linear_logprob",
    "prefix_groups",
    "reference",
    "sample_tokens",
]
