"""Train the bundled model: `make tiny-model`, or `python -m bench.tiny_model --seeds 0 1 2`.

For each seed: SFT from scratch on the miniature benchmark, evaluation, RL, evaluation. Of the stage with the higher mean
gen the first seed's model becomes `umer1/assets/tiny`; `umer1/assets/tiny/results.json` holds every score of every seed,
their means and spreads. With --compare the bundled model stays as it is, and the file says by how much the recipe as it
is now reaches the bundled results. A stage that is already finished under --work is kept; a killed one resumes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

import torch

from bench.environment import environment
from bench.results import write
from umer1 import Embedder
from umer1.cli.models import model_identity
from umer1.data.mini import build
from umer1.evaluation import Report, evaluate
from umer1.model.checkpoint import save_model
from umer1.training import rl, sft
from umer1.training.config import load_config
from umer1.training.settings import RLConfig, SFTConfig

ROOT = Path(__file__).resolve().parent.parent
RECIPES, TINY = ROOT / "umer1" / "recipes", ROOT / "umer1" / "assets" / "tiny"
SAMPLES = 16
STAGES = {"sft": (sft, SFTConfig), "rl": (rl, RLConfig)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "tiny-model")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="leave the bundled model alone; status 1 if its figures are not reached")  # fmt: skip
    arguments = parser.parse_args()
    data = build(arguments.work / "mini", seed=0)
    runs = {seed: train(seed, data, arguments.work / f"seed-{seed}") for seed in arguments.seeds}
    results = {
        "command": "python -m bench.tiny_model --seeds " + " ".join(map(str, arguments.seeds)),
        "environment": environment(),
        "summary": {stage: summary(runs, stage) for stage in STAGES},
        "seeds": {str(seed): run for seed, run in runs.items()},
    }
    print(json.dumps(results["summary"], indent=1))
    if arguments.compare:
        results["command"] += f" --compare {arguments.compare}"
        before = json.loads((TINY / "results.json").read_text())["summary"]
        results["compared"] = compared(results["summary"], before)
        write(arguments.compare, results)
        print(json.dumps(results["compared"], indent=1))
        return int(not all(each["reached"] for each in results["compared"].values()))
    stage = "rl" if results["summary"]["rl"]["rl_above_sft_gen"]["mean"] > 0 else "sft"
    bundled = f"seed {arguments.seeds[0]}, after {stage.upper()}"
    bundle(arguments.work / f"seed-{arguments.seeds[0]}" / stage / "model")
    write(TINY / "results.json", {"bundled": bundled, **results})
    return 0


def compared(now: dict, before: dict) -> dict[str, dict]:
    """By stage and mode: both means in points, the spread of the seeds before, and whether the mean reaches that of
    before."""
    return {
        f"{stage} {mode}": {
            "now": now[stage][mode],
            "bundled": before[stage][mode],
            "difference": round(now[stage][mode]["mean"] - before[stage][mode]["mean"], 1),
            "reached": now[stage][mode]["mean"] >= before[stage][mode]["mean"],
        }
        for stage in STAGES
        for mode in ("gen", "disc")
    }


def train(seed: int, data: Path, work: Path) -> dict:
    """Both stages and their evaluations; each is done once."""
    done = {}
    for stage in STAGES:
        start = {"model": str(work / "sft" / "model")} if stage == "rl" else {}
        seconds = train_stage(stage, data, work / stage, {**start, "seed": seed})
        scored = work / f"{stage}-scores.json"
        if not scored.exists():
            found = scores(score(work / stage / "model", data, work / f"{stage}-eval"))
            scored.write_text(json.dumps(found))
        found = json.loads(scored.read_text())
        done[stage] = {"training_seconds": seconds, **found}
    return done


def train_stage(stage: str, data: Path, output: Path, overrides: dict) -> float:
    """Run the recipe of a stage into `output`, once; a killed run resumes. Seconds it took."""
    seconds = output / "seconds.json"
    if not seconds.exists():
        module, kind = STAGES[stage]
        files = {
            "data": str(next((data / "train").glob(f"{stage}.[yj]*"))),
            "data_path": str(data / "train"),
            "output": str(output),
        }
        config = load_config(RECIPES / f"tiny-{stage}.yaml", kind, {**files, **overrides})
        began = time.monotonic()
        module.run(config)
        seconds.write_text(json.dumps(time.monotonic() - began))
    return json.loads(seconds.read_text())


def recipe_steps(stage: str) -> int:
    """Optimizer steps of the tiny recipe of a stage."""
    return load_config(RECIPES / f"tiny-{stage}.yaml", STAGES[stage][1], {}).steps


def score(model: Path, data: Path, output: Path) -> Report:
    """Every held-out task: disc, gen, oracle, pass@1..16."""
    embedder = Embedder.load(model, device="cpu")
    report = evaluate(
        embedder,
        data,
        output_dir=output,
        samples=SAMPLES,
        max_new_tokens=64,
        batch_size=256,
        model_id=model_identity(str(model)),
    )
    report.plot(output / "report.png")
    report.print()
    return report


def scores(report: Report) -> dict:
    content = report.to_dict()
    tasks = {
        name: {"kind": task["kind"], **task["main"], "pass_at_k": task.get("pass_at_k")}
        for name, task in content["tasks"].items()
    }
    groups = {
        name: {column: entry["mean"] for column, entry in group["main"].items()}
        | {f"pass@{k}": entry["mean"] for k, entry in group["pass_at_k"].items()}
        for name, group in content["groups"].items()
    }
    return {"groups": groups, "tasks": tasks}


def summary(runs: dict[int, dict], stage: str) -> dict:
    """What a stage's models show, in points (percent): mean, and lowest and highest of the seeds."""

    def points(read) -> dict:
        values = [100 * read(run) for run in runs.values()]
        return {
            "mean": round(statistics.mean(values), 1),
            "low": round(min(values), 1),
            "high": round(max(values), 1),
        }

    def group(run, column, name="overall", stage=stage):
        return run[stage]["groups"][name][column]

    multi = [
        name
        for name, task in next(iter(runs.values()))[stage]["tasks"].items()
        if task["kind"] == "multi_step"
    ]
    return {
        "gen": points(lambda run: group(run, "gen")),
        "disc": points(lambda run: group(run, "disc")),
        "gen_above_disc": points(lambda run: group(run, "gen") - group(run, "disc")),
        "gen_above_disc_on": {
            name: points(
                lambda run, name=name: (
                    run[stage]["tasks"][name]["gen"] - run[stage]["tasks"][name]["disc"]
                )
            )
            for name in multi
        },
        "oracle_above_both": points(
            lambda run: group(run, "oracle") - max(group(run, "gen"), group(run, "disc"))
        ),
        "rl_above_sft_gen": points(
            lambda run: group(run, "gen", stage="rl") - group(run, "gen", stage="sft")
        ),
        "pass@16_above_pass@1": points(lambda run: group(run, "pass@16") - group(run, "pass@1")),
        "disc_on_one_look": points(lambda run: group(run, "disc", "one_look")),
    }


def bundle(model: Path) -> None:
    """Copy a finished model into the package, weights in bfloat16."""
    keep = TINY / "README.md"
    text = keep.read_text() if keep.exists() else None
    shutil.rmtree(TINY, ignore_errors=True)
    embedder = Embedder.load(model, device="cpu", dtype=torch.bfloat16)
    with embedder.packed.undone():
        save_model(embedder.model, TINY)
    embedder.processor.save(TINY)
    if text is not None:
        keep.write_text(text)


if __name__ == "__main__":
    raise SystemExit(main())
