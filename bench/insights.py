"""The paper's insights on the bundled model: `python -m bench.insights`.

    python -m bench.insights                       # the miniature benchmark, 32 samples of each query
    python -m bench.insights --samples 128         # pass@1..128

Evaluates the bundled model (disc, gen and samples; kept under --work, a killed run goes on), analyses the run, edits
the reasoning of its queries, and takes the effect of RL from the three seeds in `umer1/assets/tiny/results.json`, whose
second stage is RL. Writes the numbers as JSON and the tables between their markers in --page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.environment import environment
from bench.pages import write_page
from bench.results import write
from umer1 import Embedder
from umer1.cli.models import model_identity
from umer1.data.mini import Counts, build
from umer1.evaluation import evaluate, load_tasks
from umer1.evaluation.insights.analysis import analyse_run
from umer1.evaluation.insights.rl_effect import effect_over_seeds
from umer1.evaluation.insights.text import insights_text

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "umer1" / "assets" / "tiny" / "results.json"
MODEL = "tiny"
# all of the evaluation, little of the training data, which nothing here reads
COUNTS = Counts(one_look=14, multi_step=14, rl=7)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    tasks = load_tasks(build(arguments.work / "mini", seed=0, counts=COUNTS))
    embedder = Embedder.load(MODEL, device="cpu")
    run = arguments.work / f"eval-{arguments.samples}"
    evaluate(
        embedder,
        tasks,
        output_dir=run,
        samples=arguments.samples,
        max_new_tokens=64,
        batch_size=256,
        model_id=model_identity(MODEL),
    )
    analysis = analyse_run(run, benchmark=tasks, embedder=embedder)
    analysis.save()
    seeds = json.loads(SEEDS.read_text())["seeds"]
    content = {
        "command": f"python -m bench.insights --samples {arguments.samples}",
        "environment": environment(),
        **analysis.content,
        "rl_over_seeds": effect_over_seeds(seeds, ("overall", "multi_step")),
    }
    write(arguments.json, rounded(content))
    write_page(arguments.page, page_text(content), "insights")
    print(f"wrote {arguments.json} and {arguments.page}")
    return 0


def rounded(content):
    """The same with five digits behind the point, far below every interval."""
    if isinstance(content, float):
        return round(content, 5)
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    return [rounded(value) for value in content] if isinstance(content, list) else content


def page_text(content: dict) -> str:
    """The tables, and on what they were measured."""
    on, packages = content["environment"], content["environment"]["packages"]
    queries = content["queries"]
    changed = ", with uncommitted changes" if on["uncommitted_changes"] else ""
    return (
        f"Bundled model ({content['run']['model']}), {len(queries)} tasks, {sum(queries.values())} queries, in percent "
        f"and points, 95 % intervals in brackets (bootstrap over queries; over seeds for RL). "
        f"`{content['command']}`; {on['cpu']} ({on['cpu_features']}), {on['threads']} threads, Python {on['python']}, "
        f"torch {packages['torch']}, transformers {packages['transformers']}, commit {(on['commit'] or 'unknown')[:12]}"
        f"{changed}.\n\n{insights_text(content)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.insights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=32, help="of each query, for pass@k")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "insights")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "insights" / "tiny.json")  # fmt: skip
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
