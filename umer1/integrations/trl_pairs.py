"""Pairs as rows for TRL's GRPOTrainer (1.16), and UME-R1's rewards over them: see trl.py.

Legend: N pairs of this process, G completions per pair and side.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

import umer1_kernels as kernels
from umer1.data.records import Pair, Side
from umer1.prompts import DIALECTS, format_ok, prompt_tail

_ASK = prompt_tail("gen", DIALECTS["rl"]).partition("<|im_end|>")[0]


def paired_rows(
    pairs: Iterable[Pair], seed: int | None = None, blank: Image.Image | None = None
) -> list[dict[str, Any]]:
    """Rows of a data set for GRPOTrainer: of each pair the query, then the target.

    Columns: prompt (chat messages in the wording of UME-R1's RL), images (PNG or JPEG files as
    `datasets` keeps them; GRPOTrainer puts them before the text), pair (a number), side ("query" or
    "target").

    Args:
        pairs: as `umer1.data.records.read_rl` gives them.
        seed: shuffles the pairs; GRPOTrainer must not shuffle the rows.
        blank: the picture that a text alone gets, `umer1.media.blank_image` of the checkpoint's limits.

    Raises:
        ValueError: a pair has a video.
    """
    numbered = list(enumerate(pairs))
    if seed is not None:
        random.Random(seed).shuffle(numbered)
    return [
        {
            "prompt": [{"role": "user", "content": part.text + _ASK}],
            "images": _images(part, blank, f"pair {number}, {name}"),
            "pair": number,
            "side": name,
        }
        for number, pair in numbered
        for name, part in (("query", pair.query), ("target", pair.target))
    ]


def rank_gap_reward(
    gen_emb: list[Tensor],
    gen_hit: list[bool],
    pair: list,
    side: list[str],
    log_metric: Any = None,
    kind: str = "rank_gap",
    **_: Any,
) -> list[float]:
    """UME-R1's embedding reward, rank times gap, see `umer1_kernels.group_reward`.

    The pairs of one batch, over all processes, are each other's candidates. `pair` and `side` are
    columns of `paired_rows`. The whole of each pair must be in the process's batch, so
    per_device_train_batch_size * steps_per_generation is a multiple of 2 * num_generations, and
    shuffle_dataset is off.

    Args:
        kind: of the reward; give another one by `functools.partial`.
    """
    rows: dict[Any, dict[str, list[int]]] = {}
    for row, (name, which) in enumerate(zip(pair, side, strict=True)):
        if which not in ("query", "target"):
            raise ValueError(f"side: got {which!r}, wants 'query' or 'target'")
        rows.setdefault(name, {"query": [], "target": []})[which].append(row)
    count = len(next(iter(rows.values()))["query"])
    for name, sides in rows.items():
        if count == 0 or any(len(places) != count for places in sides.values()):
            raise ValueError(
                f"pair {name!r}: {len(sides['query'])} completions of its query and "
                f"{len(sides['target'])} of its target are in this batch, wants num_generations of each: "
                "give the rows in the order of paired_rows, with shuffle_dataset=False and "
                "per_device_train_batch_size * steps_per_generation a multiple of 2 * num_generations"
            )
    # [2, N, G]
    order = torch.tensor(
        [[sides[which] for sides in rows.values()] for which in ("query", "target")]
    )
    vectors, hits = torch.stack(list(gen_emb)), torch.tensor(gen_hit)
    found = kernels.group_reward(
        vectors[order[0].to(vectors.device)],
        vectors[order[1].to(vectors.device)],
        query_valid=hits[order[0]].to(vectors.device),
        target_valid=hits[order[1]].to(vectors.device),
        kind=kind,
        group=dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None,
    )
    if log_metric is not None:
        log_metric("rank", float(found.rank.mean()))
        log_metric("gap", float(found.gap.mean()))
    rewards = torch.zeros(len(gen_hit))
    rewards[order] = torch.stack([found.query_reward, found.target_reward]).float().cpu()
    return rewards.tolist()


def format_reward(gen_text: list[str], **_: Any) -> list[float]:
    """1 for a completion of the form <think>…</think>…<answer>…<gen_emb>, else 0."""
    return [float(format_ok(text)) for text in gen_text]


def _images(side: Side, blank: Image.Image | None, where: str) -> list[dict[str, Any]]:
    if side.video is not None:
        raise ValueError(f"{where}: has a video, and TRL trains on texts and images alone")
    sources: list[str | bytes] = list(side.images)
    if not sources and blank is not None:
        file = io.BytesIO()
        blank.save(file, "PNG")
        sources = [file.getvalue()]
    return [
        {"bytes": each, "path": None} if isinstance(each, bytes) else {"bytes": None, "path": each}
        for each in sources
    ]
