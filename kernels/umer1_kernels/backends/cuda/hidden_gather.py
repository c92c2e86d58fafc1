"""gather_hidden and the step of GenerationGather, one launch each.

The gather and its gradient are the same operators as on the CPU; the tensors' device decides.
"""

from __future__ import annotations

from torch import Tensor

from umer1_kernels.backends.cpu.hidden_gather import gather_hidden
from umer1_kernels.backends.cuda.operators import operators

__all__ = ["gather_hidden", "generation_step_"]


def generation_step_(
    vectors: Tensor,
    hit: Tensor,
    hidden: Tensor,
    input_ids: Tensor,
    slot_ids: Tensor,
    generated: Tensor,
    token_id: int,
    normalize: bool,
) -> None:
    """GenerationGather.step_ on its vectors [slots, H] float32 and hit [slots]."""
    operators.generation_step_(
        vectors, hit, hidden, input_ids.long(), slot_ids.long(), generated, token_id, normalize
    )
