"""What attention over packed sequences keeps for its backward grows with the tokens, not with their square."""

import pytest
import torch

from umer1.model.attention import PackedAttention, packed_backend

LENGTHS, HEADS, KEYS, SIZE = [700, 300, 650, 5], 4, 2, 16


def _inputs(lengths, device, dtype):
    total = sum(lengths)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
    rows = [
        torch.randn(total, heads, SIZE, device=device, dtype=dtype, requires_grad=True)
        for heads in (HEADS, KEYS, KEYS)
    ]
    return ends, rows


def _kept(attend, rows):
    sizes = []
    keep = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(0, *rows).sum().backward()
    return max(sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_sdpa_on_the_cpu(causal, dtype):
    ends, rows = _inputs(LENGTHS, "cpu", dtype)
    attend = PackedAttention(LENGTHS, ends, dtype, causal)
    assert attend.backend == "sdpa"
    assert _kept(attend, rows) <= 1.2 * sum(LENGTHS) * HEADS * SIZE


def _plain(rows, lengths):
    """Softmax over each sequence by itself, float64."""
    query, key, value = (each.detach().double().cpu() for each in rows)
    key, value = (each.repeat_interleave(HEADS // KEYS, dim=1) for each in (key, value))
    parts = []
    for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths)):
        logits = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
        mask = torch.ones(logits.shape[1:], dtype=torch.bool).tril()
        parts.append(
            torch.einsum("hqk,khd->qhd", logits.masked_fill(~mask, -torch.inf).softmax(-1), v)
        )
    return torch.cat(parts)


def test_flash_attn_where_it_is_installed():
    pytest.importorskip("flash_attn")
    if not torch.cuda.is_available():
        pytest.skip("flash-attn runs on CUDA alone")
    assert packed_backend(torch.device("cuda"), torch.bfloat16) == "flash_attn"
    _check_on_cuda()


def test_a_head_size_that_they_do_not_take_is_left_to_sdpa():
    cuda = torch.device("cuda")
    assert packed_backend(cuda, torch.bfloat16, 80) == packed_backend(cuda, torch.bfloat16)
    assert packed_backend(cuda, torch.bfloat16, 80) != "sdpa"
    assert packed_backend(cuda, torch.bfloat16, 12) == "sdpa"


def test_varlen_attn_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    _check_on_cuda()


def _check_on_cuda():
    ends, rows = _inputs(LENGTHS, "cuda", torch.bfloat16)
    attend = PackedAttention(LENGTHS, ends, torch.bfloat16)
    torch.testing.assert_close(
        attend(0, *rows).double().cpu(), _plain(rows, LENGTHS), atol=2e-2, rtol=2e-2
    )
    assert _kept(attend, rows) <= 1.2 * sum(LENGTHS) * HEADS * SIZE
