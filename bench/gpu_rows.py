"""The benches of `make gpu`: one dict per measured thing, median of repeated runs, milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

import umer1_kernels as kernels


def rows() -> Iterator[dict]:
    yield from _info_nce()
    yield from _linear_cross_entropy()
    yield from _group_reward()


def _info_nce() -> Iterator[dict]:
    for count in (1024, 4096, 16384):
        yield _info_nce_row(count, dim=1536)


def _info_nce_row(count: int, dim: int) -> dict:
    """Symmetric InfoNCE, forward and backward, beside the usual autograd form with fp32 logits."""
    query, target = (
        F.normalize(torch.randn(count, dim, device="cuda"), dim=-1).bfloat16().requires_grad_()
        for _ in range(2)
    )
    labels = torch.arange(count, device="cuda")

    def ours():
        kernels.info_nce(query, target).backward()

    def eager():
        logits = 50.0 * (query.float() @ target.float().T)
        ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()

    floor = 3 * 2 * count * count * dim / 790e12 * 1e3
    return _row("info_nce", f"N=M={count} D={dim} bf16", ours, eager, floor)


def _linear_cross_entropy() -> Iterator[dict]:
    tokens, hidden_size, vocabulary = 2048, 1536, 151936
    hidden = torch.randn(
        tokens, hidden_size, device="cuda", dtype=torch.bfloat16, requires_grad=True
    )
    weight = (
        torch.randn(vocabulary, hidden_size, device="cuda", dtype=torch.bfloat16) * 0.02
    ).requires_grad_()
    target = torch.randint(vocabulary, (tokens,), device="cuda")
    target[: int(tokens * 0.7)] = -100

    def ours():
        kernels.linear_cross_entropy(hidden, weight, target).backward()

    def eager():
        F.cross_entropy((hidden @ weight.T).float(), target).backward()

    floor = 3 * 2 * int(tokens * 0.3) * hidden_size * vocabulary / 790e12 * 1e3
    yield _row(
        "linear_cross_entropy", f"T={tokens} V={vocabulary} 70% ignored bf16", ours, eager, floor
    )


def _group_reward() -> Iterator[dict]:
    query, target = (F.normalize(torch.randn(16, 8, 1536, device="cuda"), dim=-1) for _ in range(2))

    def ours():
        kernels.group_reward(query, target)

    yield _row("group_reward", "N=16 G=8 D=1536 fp32", ours, None, None)


def _row(
    name: str, shape: str, ours: Callable, eager: Callable | None, floor: float | None
) -> dict:
    times = {"ours": _median_ms(ours)}
    if eager is not None:
        times["eager"] = _median_ms(eager)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ours()
    row = {
        "bench": name,
        "shape": shape,
        **{f"{who}_ms": round(value, 4) for who, value in times.items()},
    }
    row["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    if floor is not None:
        row["percent_of_floor"] = round(100 * floor / times["ours"], 1)
    return row


def _median_ms(run: Callable, repeats: int = 20) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
