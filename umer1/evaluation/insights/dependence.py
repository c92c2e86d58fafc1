"""How much a gen vector depends on the reasoning before it: the reasoning is edited, the rest kept.

    unedited        what the model wrote, given back to it: the control, cosine 1
    no_reasoning    nothing between the think tags
    shuffled        the reasoning's tokens in random order
    swapped         the reasoning of another query of the task
    other_summary   its own reasoning, the summary of that other query
    all_swapped     reasoning and summary of that other query
    nothing         neither reasoning nor summary

Reported are the cosine with the unedited vector and what happens to the ranking of the (unchanged)
candidates. "another query" is the cosine of two queries' unedited vectors: what a cosine means where
all vectors are alike (an open question of UME-R1's users, whose cosines under edits were 0.95).
"""

from collections.abc import Sequence
from random import Random

import numpy as np

from umer1.evaluation.evaluated import EvaluatedTask

EDITS = (
    "unedited",
    "no_reasoning",
    "shuffled",
    "swapped",
    "other_summary",
    "all_swapped",
    "nothing",
)


def edited_columns(
    task: EvaluatedTask,
    items: Sequence,
    embedder,
    *,
    queries: int = 100,
    seed: int = 0,
    advance=lambda count: None,
) -> dict[str, np.ndarray]:
    """Columns of the queries looked at, float64 [n]: "cosine:EDIT", "main:EDIT" (the task's main
    metric), "top:EDIT" (1 where the first candidate is still that of the unedited vector), and
    "cosine:another query".

    items: of all the task's queries. queries: at most so many, evenly spread over those that have
    a partner: both ended with `<gen_emb>`, and reasoning and summary of the two differ.
    Empty when there are none.
    """
    from umer1.evaluation.insights.reasoning import response_vectors, shuffle_tokens

    if len(items) != len(task.infos):
        raise ValueError(f"items: got {len(items)}, {task.name} has {len(task.infos)} queries")
    partners = find_partners(task.texts, seed)
    chosen = [row for row, partner in enumerate(partners) if partner is not None]
    if not chosen:
        return {}
    spread = np.linspace(0, len(chosen) - 1, min(queries, len(chosen))).round().astype(int)
    chosen = [chosen[place] for place in spread]
    responses = [
        edits(
            task.texts[row],
            task.texts[partners[row]],
            shuffle_tokens(embedder.processor, task.texts[row]["reasoning"], f"{seed} {row}"),
        )
        for row in chosen
    ]
    vectors = response_vectors(embedder, [items[row] for row in chosen], responses, advance=advance)
    return _columns(task, chosen, [partners[row] for row in chosen], vectors)


def edits(own: dict, other: dict, shuffled: str) -> list:
    """The response under each of EDITS; own and other: {reasoning, summary}."""
    from umer1.evaluation.insights.reasoning import Response

    return [
        Response(own["reasoning"], own["summary"]),
        Response("", own["summary"]),
        Response(shuffled, own["summary"]),
        Response(other["reasoning"], own["summary"]),
        Response(own["reasoning"], other["summary"]),
        Response(other["reasoning"], other["summary"]),
        Response("", ""),
    ]


def find_partners(texts: Sequence[dict], seed: int) -> list[int | None]:
    """For each query another one whose reasoning and summary both differ from its own; None where
    there is none, or where its own generation did not end with `<gen_emb>`.
    """
    order = [row for row, text in enumerate(texts) if text["finish"] == "gen_emb"]
    Random(seed).shuffle(order)
    partners: list[int | None] = [None] * len(texts)
    for place, row in enumerate(order):
        following = (order[(place + away) % len(order)] for away in range(1, len(order)))
        partners[row] = next(
            (other for other in following if _differ(texts[row], texts[other])), None
        )
    return partners


def _differ(one, other):
    return all(one[field] != other[field] for field in ("reasoning", "summary"))


def _columns(task, chosen, partners, vectors):
    """vectors [n, E, D] of the rows `chosen`."""
    columns = {}
    cosines = np.einsum("ned,nd->ne", vectors, vectors[:, 0]).astype(np.float64)
    other = np.einsum("nd,nd->n", vectors[:, 0], task.queries["gen"][partners])
    columns["cosine:another query"] = other.astype(np.float64)
    # the run's own vectors: that the text given back is what the model wrote
    columns["cosine:as generated"] = np.einsum(
        "nd,nd->n", vectors[:, 0], task.queries["gen"][chosen]
    ).astype(np.float64)
    part = task.part(chosen)
    scores = list(part.scores("gen", vectors))
    first = np.stack([own.argmax(axis=1) for own in scores])
    for place, edit in enumerate(EDITS):
        columns[f"cosine:{edit}"] = cosines[:, place]
        columns[f"main:{edit}"] = part.main(own[place] for own in scores)
        columns[f"top:{edit}"] = (first[:, place] == first[:, 0]).astype(np.float64)
    return columns
