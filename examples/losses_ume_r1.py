"""The SFT losses of UME-R1's own trainer: its ClipLoss twice, and the next-token loss of both sides.

python examples/losses_ume_r1.py                # seconds on a CPU

Replaces, in the released trainer,
    ClipLoss(local_loss=True, gather_with_grad=True, ...)(q, p, logit_scale=50)   for gen and for disc
    CrossEntropyLoss over float32 logits of all tokens                            for each side
Numerics: the released run multiplies bfloat16 vectors, so its logits of up to 50 are spaced by 0.25;
here they are float32. The next-token losses are made from hidden states: logits of prompt and media
tokens, whose labels are -100, are never computed.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from umer1_kernels import dual_info_nce, info_nce, linear_cross_entropy


class ClipLoss(nn.Module):
    """Drop-in for the released class as the trainer calls it: own rows against those of all."""

    def __init__(
        self,
        local_loss: bool = True,
        gather_with_grad: bool = True,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ):
        super().__init__()
        if not (local_loss and gather_with_grad) or use_horovod:
            raise ValueError(
                "UME-R1 trains with local_loss=True, gather_with_grad=True, no horovod"
            )
        self.world_size = world_size

    def forward(self, query: Tensor, target: Tensor, logit_scale: float = 50.0) -> Tensor:
        group = dist.group.WORLD if self.world_size > 1 else None
        return info_nce(query, target, scale=logit_scale, group=group)


def sft_loss(
    gen: tuple[Tensor, Tensor],
    disc: tuple[Tensor, Tensor],
    hidden: tuple[Tensor, Tensor],
    labels: tuple[Tensor, Tensor],
    head: Tensor,
    group=None,
) -> dict[str, Tensor]:
    """L_SFT = L_gctr + L_dctr + CE_query + CE_target, every weight 1.

    Args:
        gen, disc: (query, target) vectors [B, D], L2-normalised.
        hidden, labels: (query side, target side): final states [B, L, D] and labels [B, L].
        head: [V, D].
    """
    contrastive = dual_info_nce(gen, disc, scale=50.0, group=group)
    tokens = [
        linear_cross_entropy(states[:, :-1].flatten(0, 1), head, label[:, 1:].flatten())
        for states, label in zip(hidden, labels)
    ]
    loss = contrastive.loss + tokens[0] + tokens[1]
    return {"loss": loss, "gen": contrastive.gen, "disc": contrastive.disc,
            "ce_query": tokens[0], "ce_target": tokens[1]} | contrastive.metrics  # fmt: skip


def released_loss(gen, disc, hidden, labels, head) -> Tensor:
    """The same in the released trainer's steps, on one process."""

    def clip(query, target):
        here = torch.arange(len(query))
        logits_query, logits_target = 50.0 * query @ target.T, 50.0 * target @ query.T
        return (F.cross_entropy(logits_query, here) + F.cross_entropy(logits_target, here)) / 2

    def next_token(states, label):
        logits = (states @ head.T).float()[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), label[:, 1:].flatten())

    tokens = sum(next_token(states, label) for states, label in zip(hidden, labels))
    return clip(*gen) + clip(*disc) + tokens


def compare() -> dict:
    """Largest differences of loss and gradients on a random batch, float32."""
    torch.manual_seed(0)
    batch, length, dim, vocabulary = 8, 14, 32, 70
    vectors = [F.normalize(torch.randn(batch, dim), dim=1).requires_grad_() for _ in range(4)]
    hidden = [torch.randn(batch, length, dim, requires_grad=True) for _ in range(2)]
    head = torch.randn(vocabulary, dim, requires_grad=True)
    labels = [torch.randint(vocabulary, (batch, length)) for _ in range(2)]
    for label in labels:
        label[:, :9] = -100
    inputs = vectors[:2], vectors[2:], hidden, labels, head
    leaves = [*vectors, *hidden, head]
    ours, theirs = sft_loss(*inputs)["loss"], released_loss(*inputs)
    grads = [torch.autograd.grad(loss, leaves) for loss in (ours, theirs)]
    clip_ours, clip_theirs = ClipLoss()(*vectors[:2]), sft_loss(*inputs)["gen"]
    return {
        "loss": ours.item(),
        "loss difference": (ours - theirs).abs().item(),
        "gradient difference": max((a - b).abs().max().item() for a, b in zip(*grads)),
        "ClipLoss difference": (clip_ours - clip_theirs).abs().item(),
    }


if __name__ == "__main__":
    print(compare())
