"""How a run's disc and gen rankings are best made one: `python -m bench.fused_modes RUN`.

    umer1 data mini --out data/mini
    umer1 eval mmeb data/mini -o runs/tiny --modes disc,gen
    python -m bench.fused_modes runs/tiny

RUN has both modes stored. Per rule the main metric, in percent, as the mean over the run's tasks:

    mean            the mean of both cosines (what `umer1 search --mode fused` does)
    best            the larger cosine
    standardized    the mean of both, each with mean 0 and deviation 1 over the query's candidates
    ranks           reciprocal rank fusion, 1 / (60 + rank) summed

Prints the table and writes it between the markers of fused-modes in --page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench.index_recall import write_page

ROOT = Path(__file__).resolve().parent.parent
RANK_CONSTANT = 60


def _standardized(scores):
    # candidates that all score the same say nothing
    return (scores - scores.mean()) / (scores.std() or 1.0)


def _ranks(scores):
    places = np.empty(len(scores))
    places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1 / (RANK_CONSTANT + places)


RULES = {
    "disc": lambda disc, gen: disc,
    "gen": lambda disc, gen: gen,
    "mean": lambda disc, gen: (disc + gen) / 2,
    "best": np.maximum,
    "standardized": lambda disc, gen: _standardized(disc) + _standardized(gen),
    "ranks": lambda disc, gen: _ranks(disc) + _ranks(gen),
}


def means(tasks) -> dict[str, float]:
    """Rule -> percent, of `umer1.evaluation.evaluated.EvaluatedTask`s."""
    values = {rule: [] for rule in RULES}
    for task in tasks:
        both = list(zip(task.scores("disc"), task.scores("gen"), strict=True))
        for rule, fuse in RULES.items():
            values[rule].append(100 * task.main(fuse(*pair) for pair in both).mean())
    return {rule: float(np.mean(own)) for rule, own in values.items()}


def main(argv: list[str] | None = None) -> int:
    from umer1.evaluation.evaluated import load_evaluated
    from umer1.evaluation.runs import load_run

    parser = argparse.ArgumentParser(
        prog="python -m bench.fused_modes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "search.md")
    arguments = parser.parse_args(argv)
    tasks = load_evaluated(load_run(arguments.run))
    found = means(tasks)
    text = "\n".join(
        [
            f"{len(tasks)} tasks, {sum(len(task.infos) for task in tasks)} queries:",
            "",
            "| " + " | ".join(found) + " |",
            "|---" * len(found) + "|",
            "| " + " | ".join(f"{value:.1f}" for value in found.values()) + " |",
        ]
    )
    print(text)
    write_page(arguments.page, text, "fused-modes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
