"""The table of ablations: `python -m bench.ablations`.

    python -m bench.ablations                            # every row, seeds 0 1 2, the tiny recipe as it is: hours
    python -m bench.ablations --steps-share 0.25         # a quarter of the recipe's steps in every run
    python -m bench.ablations --only full no-rl dume --seeds 0

Every row is trained with the tiny recipe, on the released losses (no alignment), on the miniature benchmark but for what its
name says, evaluated on all held-out tasks, for several seeds. Each training run and each evaluation has a folder of its own
under --work: finished ones are skipped, a killed one resumes. Rows share what they have in common: RL rows begin from the
seed's one SFT model. The result is a JSON file and the table between its markers in a page, both written anew after every
seed: of the whole table (every row, three seeds or more, all data) those of the project, of less the ones under --work,
unless --json and --page say otherwise.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.environment import environment
from bench.external_summary import SummarisedEmbedder, with_annotated_summaries
from bench.results import write
from bench.tiny_model import recipe_steps, scores, train_stage
from umer1 import Embedder
from umer1.data.mini import build
from umer1.evaluation import evaluate

ROOT = Path(__file__).resolve().parent.parent
RELEASED = {
    "sft": {"align_weight": 0.0},
    "rl": {},
}  # what the tiny recipe adds to the released losses, undone
BOTH, DISC = "disc,gen,disc-gen,gen-disc", "disc"
MARKER = re.compile(r"(<!-- begin: ablations -->\n)(.*?)(<!-- end: ablations -->)", re.DOTALL)


@dataclass(frozen=True)
class Ablation:
    """One row: overrides of the recipe's stages. `rl` None: SFT alone. `told`: of the external summary."""

    about: str
    sft: dict = field(default_factory=dict)
    rl: dict | None = field(default_factory=dict)
    modes: str = BOTH
    told: bool = False


ABLATIONS = {
    "full": Ablation("SFT, then RL with rank x gap"),
    "no-rl": Ablation("SFT alone", rl=None),
    "rank-only": Ablation("reward: rank", rl={"reward": "rank"}),
    "gap-only": Ablation("reward: similarity gap", rl={"reward": "gap"}),
    "threshold": Ablation("reward: similarity above 0.5", rl={"reward": "threshold"}),
    "adaptive-threshold": Ablation(
        "reward: similarity above the batch's own threshold", rl={"reward": "adaptive_threshold"}
    ),
    "dume": Ablation(
        "no generative losses, no RL (DUME)", sft={"generative": False}, rl=None, modes=DISC
    ),
    "no-disc": Ablation("no discriminative loss", sft={"discriminative": False}),
    "aligned": Ablation("gen and disc aligned in SFT (weight 1)", sft={"align_weight": 1.0}),
    "external-summary": Ablation(
        "a disc model that is told an external reasoner's summary, no RL",
        sft={"generative": False},
        rl=None,
        modes=DISC,
        told=True,
    ),
}


class Run(NamedTuple):
    """One training: its folder below a seed's, its stage, what is overridden, and the run it begins from."""

    folder: str
    stage: str
    overrides: dict
    start: str = ""


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    chosen = {name: ABLATIONS[name] for name in ABLATIONS if name in (arguments.only or ABLATIONS)}
    json_file, page = _files(arguments)
    size = "" if arguments.scale == 1 else f"-scale-{arguments.scale:g}"
    data = build(arguments.work / f"mini{size}", seed=0, scale=arguments.scale)
    clock = Clock(len(arguments.seeds) * _jobs(chosen))
    found: dict[str, dict] = {name: {} for name in chosen}
    here = environment()  # before the files are written: they would be uncommitted changes
    for seed in arguments.seeds:
        work = arguments.work / f"seed-{seed}-share-{arguments.steps_share:g}{size}"
        for name, ablation in chosen.items():
            for run in runs(name, ablation):
                train(run, ablation, seed, data, work, arguments.steps_share, clock)
            found[name][str(seed)] = score(name, ablation, data, work, clock)
        content = {
            "command": "python -m bench.ablations " + " ".join(argv or _typed()),
            "environment": here,
            "steps_share": arguments.steps_share,
            "ablations": found,
        }
        write(json_file, content)
        write_page(page, f"{table(found)} {origin(content)}")
    print(table(found))
    print(f"wrote {json_file} and {page}; {clock.spent()}")
    return 0


def runs(name: str, ablation: Ablation) -> list[Run]:
    """The trainings behind a row, in order; rows with the same SFT name the same folder."""
    own_sft = name if ablation.sft else "full"
    found = [Run(f"sft-{own_sft}", "sft", ablation.sft)]
    if ablation.rl is not None:
        found.append(Run(f"rl-{name}", "rl", ablation.rl, start=found[0].folder))
    return found


def train(
    run: Run, ablation: Ablation, seed: int, data: Path, work: Path, share: float, clock: Clock
) -> None:
    output = work / run.folder
    steps = round(share * recipe_steps(run.stage))
    overrides = {**RELEASED[run.stage], **run.overrides, "seed": seed, "steps": steps}
    if run.start:
        overrides["model"] = str(work / run.start / "model")
    if ablation.told:
        file = data.with_name(f"{data.name}-told") / "sft.json"
        overrides["data"] = str(with_annotated_summaries(data / "train" / "sft.json", file))
    known = (output / "seconds.json").exists()
    train_stage(run.stage, data, output, overrides)
    clock.tick(f"seed {seed}: {run.folder}", known)


def score(name: str, ablation: Ablation, data: Path, work: Path, clock: Clock) -> dict:
    """Scores of the row's last model; evaluated once."""
    file = work / f"scores-{name}.json"
    known = file.exists()
    if not known:
        model = work / runs(name, ablation)[-1].folder / "model"
        embedder = Embedder.load(model, device="cpu")
        if ablation.told:
            embedder = SummarisedEmbedder(embedder, Embedder.load("tiny", device="cpu"))
        report = evaluate(
            embedder,
            data,
            output_dir=work / f"eval-{name}",
            modes=ablation.modes,
            max_new_tokens=64,
            batch_size=256,
            progress=False,
        )
        write(file, scores(report))
    clock.tick(f"{work.name}: evaluation of {name}", known)
    return json.loads(file.read_text())


class Clock:
    """Says after each run what it took, what all took, and about how long the rest will."""

    def __init__(self, jobs: int):
        self.jobs, self.done, self.made = jobs, 0, 0
        self.began = self.last = time.monotonic()

    def tick(self, what: str, known: bool) -> None:
        now = time.monotonic()
        self.done += 1
        self.made += not known
        took = "kept" if known else f"{(now - self.last) / 60:.1f} min"
        self.last = now
        print(f"[{self.done}/{self.jobs}] {what}: {took}; {self.spent()}{self._rest()}", flush=True)

    def spent(self) -> str:
        return f"{(time.monotonic() - self.began) / 60:.1f} min in all"

    def _rest(self) -> str:
        left = self.jobs - self.done
        if not self.made or not left:
            return ""
        each = (time.monotonic() - self.began) / self.made
        return f", about {each * left / 60:.0f} min to go at this pace"


def table(found: dict[str, dict]) -> str:
    """Markdown: mean over the seeds in percent, lowest and highest in brackets."""
    header = ("", "gen", "disc", "disc query, gen target", "gen, several steps", "gen to full")
    lines = [header, ("---",) * len(header)]
    for name, seeds in found.items():
        about = f"**{ABLATIONS[name].about}**" if name == "full" else ABLATIONS[name].about
        lines.append((
            about, _spread(seeds, "gen"), _spread(seeds, "disc"), _spread(seeds, "disc-gen"),
            _spread(seeds, "gen", "multi_step"), _difference(seeds, found.get("full", {})),
        ))  # fmt: skip
    count = max((len(seeds) for seeds in found.values()), default=0)
    note = f"Percent, mean of {count} seeds (lowest to highest). Difference: same seed, points."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{note}"


def origin(content: dict) -> str:
    """How the table came about."""
    on, share = content["environment"], content["steps_share"]
    steps = ", ".join(f"{round(share * recipe_steps(stage)):,} steps of {stage.upper()}" for stage in ("sft", "rl"))  # fmt: skip
    changed = ", with uncommitted changes" if on["uncommitted_changes"] else ""
    return (
        f"{share:.0%} of the tiny recipe's steps ({steps}), its alignment in the row that says so alone. `{content['command']}`: {on['cpu']}, "
        f"torch {on['packages']['torch']}, commit {(on['commit'] or 'unknown')[:12]}{changed}."
    )


def write_page(page: Path, text: str) -> None:
    """Between the page's markers; a page without them gets them at its end."""
    old = page.read_text() if page.exists() else "# Results\n"
    if not MARKER.search(old):
        old += "\n## Ablations\n\n<!-- begin: ablations -->\n<!-- end: ablations -->\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(MARKER.sub(lambda match: f"{match[1]}{text}\n{match[3]}", old))


def _spread(seeds: dict, mode: str, group: str = "overall") -> str:
    values = [100 * one["groups"][group][mode] for one in seeds.values() if mode in one["groups"][group]]  # fmt: skip
    if not values:
        return "–"
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _difference(seeds: dict, full: dict) -> str:
    """Of a row's best way to embed (gen where it writes) to the full recipe's gen, seed by seed."""
    values = [
        100 * (_best(one) - full[seed]["groups"]["overall"]["gen"])
        for seed, one in seeds.items()
        if seed in full
    ]
    return "–" if not values else f"{statistics.mean(values):+.1f}"


def _best(one: dict) -> float:
    overall = one["groups"]["overall"]
    return overall.get("gen", overall["disc"])


def _jobs(chosen: dict[str, Ablation]) -> int:
    return sum(len(runs(name, ablation)) + 1 for name, ablation in chosen.items())


def _files(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Where the JSON and the table go."""
    whole = not arguments.only and len(arguments.seeds) >= 3 and arguments.scale == 1
    results = ROOT / "bench" / "results" / "ablations" if whole else arguments.work
    page = ROOT / "docs" / "results.md" if whole else arguments.work / "results.md"
    return arguments.json or results / "tiny.json", arguments.page or page


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, wants a number above 0, at most 1")
    return value


def _typed() -> list[str]:
    import sys

    return sys.argv[1:]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ABLATIONS, metavar="ROW", help=f"of {', '.join(ABLATIONS)}")  # fmt: skip
    parser.add_argument("--steps-share", type=_share, default=1.0, metavar="S",
                        help="of the recipe's steps in every run, schedules shortened with them; above 0, at most 1 (default)")  # fmt: skip
    parser.add_argument("--scale", type=float, default=1.0, help="of the benchmark's training data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "ablations")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
