"""An open_clip-style ClipLoss: same constructor, same call, same value, no matrix of logits.

python examples/losses_open_clip.py             # seconds on a CPU

Replaces open_clip.ClipLoss: swap the class, nothing else.
Numerics: open_clip multiplies in the features' dtype; here logits are float32 also for bfloat16
features, so bfloat16 gradients are closer to the exact ones. Values and float32 gradients agree to
rounding. The distributed gradients are open_clip's in each mode:

    local_loss, gather_with_grad   what a process returns         its gradient, averaged by DDP
    True,  True                    the loss of its own rows       the global loss's
    False, True                    the global loss                the global loss's
    False, False                   the global loss                1 / processes of it

local_loss=True without gather_with_grad drops the gradient of the gathered side; it is refused.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from umer1_kernels import info_nce


class ClipLoss(nn.Module):
    """cache_labels is accepted and not needed."""

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ):
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod=True is not supported; use torch.distributed")
        if world_size > 1 and local_loss and not gather_with_grad:
            raise ValueError(
                "local_loss=True needs gather_with_grad=True: half the gradient is lost"
            )
        self.local_loss, self.gather_with_grad = local_loss, gather_with_grad
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """logit_bias shifts all logits alike: it changes neither a softmax nor its gradients."""
        group = dist.group.WORLD if self.world_size > 1 else None
        loss = info_nce(image_features, text_features, scale=logit_scale, group=group)
        if group is not None and not self.local_loss:
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            mean /= self.world_size
            gradient = loss if self.gather_with_grad else loss / self.world_size
            loss = gradient + (mean - gradient.detach())
        return {"contrastive_loss": loss} if output_dict else loss


def eager(image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float) -> Tensor:
    """The loss written out."""
    logits = logit_scale * image_features @ text_features.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def compare(dtype: torch.dtype = torch.float32, rows: int = 48) -> dict:
    """Relative errors of the gradients, ours and the eager ones, against float64."""
    torch.manual_seed(0)
    shared, pairs = torch.randn(64), torch.randn(rows, 64)  # cosines: others 0.4, pairs 0.8
    features = [
        F.normalize(shared + pairs + 0.7 * torch.randn(rows, 64), dim=1).to(dtype) for _ in range(2)
    ]

    def gradients(loss, dtype):
        leaves = [value.to(dtype).requires_grad_() for value in (*features, torch.tensor(50.0))]
        value = loss(*leaves)
        return value, torch.autograd.grad(value, leaves[:2])

    exact, exact_grads = gradients(eager, torch.float64)
    result = {"exact": exact.item()}
    for name, loss in (("ours", ClipLoss()), ("eager", eager)):
        value, grads = gradients(loss, dtype)
        errors = [((g - e).norm() / e.norm()).item() for g, e in zip(grads, exact_grads)]
        result |= {name: value.item(), f"{name} gradient error": max(errors)}
    return result


if __name__ == "__main__":
    for dtype in (torch.float32, torch.bfloat16):
        print(dtype, compare(dtype))
