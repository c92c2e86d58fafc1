"""Score the vectors in a directory of result files, and compare with the scores beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from umer1.evaluation.benchmark import datasets, entries
from umer1.evaluation.datasets.loading import yaml_files
from umer1.evaluation.datasets.tasks import MAIN_METRIC
from umer1.evaluation.means.submission import FIXED, PAGE_TASKS
from umer1.evaluation.report import Report
from umer1.evaluation.scores.metrics import CUTOFFS, METRICS
from umer1.evaluation.scores.scoring import Scored, score_vectors
from umer1.evaluation.scores.stored import Stored, find_stored


@dataclass(frozen=True, slots=True)
class Kind:
    """What scoring has to know of a task beside its files."""

    modality: str
    eval_type: str
    group: str | None = None
    revision: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Rescored:
    """One task under one pair of modes. theirs: the main metric of the score file that was there.
    difference: the largest over all its metrics; both None without such a file.
    """

    stored: Stored
    kind: Kind
    scored: Scored
    queries: int
    candidates: int
    theirs: float | None
    difference: float | None

    @property
    def metric(self) -> str:
        return MAIN_METRIC[self.kind.modality]

    @property
    def main(self) -> float:
        return float(self.scored.scores.values[self.metric].mean())

    def to_dict(self) -> dict:
        """A row of the comparison."""
        upstream = self.scored.upstream
        return {
            "task": self.stored.name,
            "column": self.stored.column,
            "metric": self.metric,
            "score": self.main,
            "theirs": self.theirs,
            "difference": self.difference,
            "upstream_pairing": None if upstream is None else upstream.mean()[self.metric],
            "ties": self.scored.ties,
            "tied_labels": self.scored.tied,
            "queries": self.queries,
            "candidates": self.candidates,
            "notes": self.scored.notes,
        }


def rescore(
    directory: str | Path, *, benchmark: str | Path | None = None, names=None, **options
) -> Iterator[Rescored]:
    """Score every task of a directory under every pair of modes that is there.

    benchmark: YAML file or directory that says of tasks outside MMEB-V2, and outside the
    directory's own report.json, whether they are local or global. names: only these tasks. options:
    ties, pairing, device of `score_vectors`.

    Raises ValueError for what cannot be read or scored, naming the task.
    """
    found = find_stored(directory)
    if unknown := sorted(set(names or ()) - {stored.name for stored in found}):
        there = ", ".join(dict.fromkeys(stored.name for stored in found))
        raise ValueError(f"no task named {', '.join(unknown)}; there are {there}")
    chosen = [stored for stored in found if names is None or stored.name in names]
    kinds = _kinds(Path(directory), benchmark)
    if missing := sorted({stored.name for stored in chosen} - set(kinds)):
        raise ValueError(
            f"{', '.join(missing)}: not tasks of MMEB-V2; say with --benchmark which YAML files "
            "have them"
        )
    for stored in chosen:
        kind = kinds[stored.name]
        try:
            yield _one(stored, kind, options)
        except ValueError as error:
            raise ValueError(f"{stored.name}, {stored.column}: {error}") from None


def _one(stored, kind, options):
    queries, (names, candidates) = stored.load_queries(), stored.load_candidates()
    infos, theirs = stored.load_infos(kind.eval_type), stored.load_scores()
    scored = score_vectors(infos, names, queries, candidates, kind.eval_type, **options)
    main = difference = None
    if theirs is not None:
        ours = scored.scores.mean()
        keys = [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
        common = [key for key in keys if isinstance(theirs.get(key), int | float)]
        main = theirs.get(MAIN_METRIC[kind.modality])
        difference = max((abs(ours[key] - theirs[key]) for key in common), default=None)
    return Rescored(stored, kind, scored, len(infos), len(names), main, difference)


def _kinds(directory, benchmark):
    """Task name -> Kind: of the benchmark, of the YAML files, of the directory's own report."""
    kinds = {
        entry.name: Kind(entry.modality, entry.eval_type, entry.group)
        for entry in (*entries().values(), *datasets().values())
    }
    for name in PAGE_TASKS:
        entry = entries()[name]
        # named after the corrected data, which says which revision it is
        kinds[name + FIXED] = Kind(entry.modality, entry.eval_type, entry.group, entry.repo)
    for path in yaml_files(Path(benchmark)) if benchmark else ():
        for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            modality = fields.get("modality", path.stem)
            if modality not in MAIN_METRIC:
                raise ValueError(
                    f"{path}: need a file called image.yaml, video.yaml or visdoc.yaml"
                )
            kinds[name] = Kind(modality, fields.get("eval_type", "global"))
    own = directory / "report.json"
    if own.is_file():
        for name, entry in Report.load(own).tasks.items():
            keys = ("modality", "eval_type", "group", "revision", "kind")
            kinds[name] = Kind(*(entry.get(key) for key in keys))
    return kinds
