"""The hidden state at a token: gather_hidden in training, GenerationGather in decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks, segments
from umer1_kernels.backends import choose
from umer1_kernels.reference.hidden_gather import EPSILON
from umer1_kernels.reference.hidden_gather import gather_hidden as reference_gather_hidden
from umer1_kernels.segments import GatheredHidden


def gather_hidden(
    hidden: Tensor,
    input_ids: Tensor,
    token_id: int,
    *,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    start: Tensor | None = None,
    occurrence: str = "last",
    normalize: bool = True,
    backend: str = "auto",
) -> GatheredHidden:
    """The state at the last (or first) position of each sequence whose *input* is `token_id`.

    Args:
        hidden, input_ids: padded [B, L, H] and [B, L], or with `cu_seqlens` packed [T, H] and [T].
        lengths: [B] for padded input: tokens per sequence, on the left; the padding after them is
            never searched.
        cu_seqlens: [B + 1] for packed input: where each sequence begins, and T.
        start: [B], first position searched in each sequence (default 0): with the prompt's length
            the prompt's own `<gen_emb>` cannot be taken for the answer's.
        occurrence: "last" or "first".
        normalize: divide by the L2 norm, in float32 at least.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        GatheredHidden: vectors [B, H], float32 (float64 for float64 input), differentiable; index
        int64 [B], the row of packed `hidden` or the position in the padded row. Where the token is
        absent index is -1 and the vector is zero, without gradient: no other position stands in.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """
    segments.check_arguments(hidden, input_ids, token_id, lengths, cu_seqlens, start, occurrence)
    gather = reference_gather_hidden
    chosen = choose("gather_hidden", backend, hidden).backend
    if chosen != "reference":
        checks.check_no_tangent("gather_hidden", hidden)
    if chosen == "cpu":
        from umer1_kernels.backends.cpu.hidden_gather import gather_hidden as gather
    elif chosen == "triton":
        from umer1_kernels.backends.triton.hidden_gather import gather_hidden as gather
    elif chosen == "cuda":
        from umer1_kernels.backends.cuda.hidden_gather import gather_hidden as gather
    return gather(
        hidden,
        input_ids,
        token_id,
        lengths=lengths,
        cu_seqlens=cu_seqlens,
        start=start,
        occurrence=occurrence,
        normalize=normalize,
    )


class GenerationGather:
    """The vector of each decoding slot: one call per step, no host sync, no stored steps.

    Args:
        backend: "auto", "reference", or one kernel per step with "triton" or "cuda".

    Attributes:
        vectors: float32 [slots, dim], zero until the slot's sequence has read the token.
        hit: bool [slots].
    """

    def __init__(
        self,
        slots: int,
        dim: int,
        token_id: int,
        *,
        device="cpu",
        normalize: bool = True,
        backend: str = "auto",
    ):
        if slots < 1 or dim < 1:
            raise ValueError(f"slots is {slots} and dim {dim}; both must be at least 1")
        self.token_id = token_id
        self.normalize = normalize
        # one more row takes what belongs to no slot
        self._vectors = torch.zeros(slots + 1, dim, dtype=torch.float32, device=device)
        self._hit = torch.zeros(slots + 1, dtype=torch.bool, device=device)
        self._one_kernel = _step_kernel(choose("gather_hidden", backend, self._vectors).backend)

    @property
    def vectors(self) -> Tensor:
        return self._vectors[:-1]

    @property
    def hit(self) -> Tensor:
        return self._hit[:-1]

    @torch.no_grad()
    def step_(self, hidden: Tensor, input_ids: Tensor, slot_ids: Tensor, generated: Tensor) -> None:
        """Record the rows whose input is the token; a later one of the same slot replaces it.

        Args:
            hidden: [B, dim], final states of this step. input_ids: [B], the tokens it read.
            slot_ids: int64 [B], all different; -1 for a row that belongs to no slot.
            generated: bool [B]; False while a row reads its prompt, whose tokens never count.
        """
        if self._one_kernel:
            inputs = (hidden, input_ids, slot_ids, generated)
            self._one_kernel(self.vectors, self.hit, *inputs, self.token_id, self.normalize)
            return
        taken = (input_ids == self.token_id) & generated & (slot_ids >= 0)
        rows = torch.where(taken, slot_ids, self._hit.shape[0] - 1)
        vectors = hidden.float()
        if self.normalize:
            vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        self._vectors.index_copy_(0, rows, vectors)
        self._hit.index_fill_(0, rows, True)

    def reset_(self, slot_ids: Tensor) -> None:
        """Forget these slots, before other sequences take them."""
        self._vectors.index_fill_(0, slot_ids, 0.0)
        self._hit.index_fill_(0, slot_ids, False)


def _step_kernel(backend: str):
    """The backend's generation_step_, or None: torch's own operators."""
    if backend == "triton":
        from umer1_kernels.backends.triton.hidden_gather import generation_step_
    elif backend == "cuda":
        from umer1_kernels.backends.cuda.hidden_gather import generation_step_
    else:
        return None
    return generation_step_
