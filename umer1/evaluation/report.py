"""The result of an evaluation: scores per task, means per group, as table, JSON and plot."""

import json
from dataclasses import dataclass
from pathlib import Path

from umer1.evaluation.files import save_json
from umer1.evaluation.means.aggregate import GROUP_TITLES, aggregate, incomplete, listing, uncounted
from umer1.evaluation.means.benchmark_groups import benchmark_groups

VERSION = 1
PASS_AT_K_NOTE = "pass@k is the unbiased estimate from n sampled queries: hit@1, candidates greedy"


@dataclass(slots=True)
class Report:
    """settings: how the run was made. tasks: task name -> its entry, as written by `evaluate`.

    Of an entry, `main` is the task's main metric per column (disc, gen, oracle, mixed modes),
    `pass_at_k` its pass@k by k (a string), `scores` every metric per mode. Scores are fractions of
    1.
    """

    settings: dict
    tasks: dict[str, dict]

    @property
    def groups(self) -> dict[str, dict]:
        """Means per modality, per kind and over all tasks (`aggregate`)."""
        return aggregate(self.tasks)

    def mean(self, group: str, column: str) -> float:
        """Mean of a column over a group ("overall", "image", "multi_step", ...), the group being
        complete.
        """
        entry = self.groups[group]["main"][column]
        if entry["missing"]:
            raise ValueError(f"{group}, {column}: no value for {', '.join(entry['missing'])}")
        return entry["mean"]

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know, in sentences."""
        notes = list(incomplete(self.groups))
        if any(entry.get("pass_at_k") for entry in self.tasks.values()):
            notes.append(f"{PASS_AT_K_NOTE} (n={self.settings.get('samples')})")
        if names := uncounted(self.tasks):
            notes.append(f"in no mean, because MMEB-V2 does not count them: {listing(names)}")
        notes += _printed(self.tasks, self.groups)
        for about in (_missing_gen_emb, _ties, _pairings, _task_notes, _other_rules):
            notes += about(self.tasks)
        return notes

    def to_dict(self) -> dict:
        return {
            "version": VERSION,
            "settings": self.settings,
            "groups": self.groups,
            "tasks": self.tasks,
            "notes": self.notes,
        }

    def save(self, path: str | Path) -> None:
        """Write the report as JSON."""
        save_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report written by `save`. Raises ValueError if the file holds anything else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a report of an evaluation: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(
                f"{path}: not a report of an evaluation: holds {type(content).__name__}, "
                "wants an object"
            )
        if content.get("version") != VERSION:
            raise ValueError(
                f"{path}: report version {content.get('version')!r}, this program reads {VERSION}"
            )
        for key in ("settings", "tasks"):
            if not isinstance(content.get(key), dict):
                raise ValueError(f"{path}: not a report of an evaluation: has no object {key!r}")
        return cls(content["settings"], content["tasks"])

    def table(self):
        """A rich Table: a row per task, then the means. Scores in percent."""
        from umer1.evaluation.table import build_table

        return build_table(self)

    def print(self) -> None:
        """Print table and notes to stdout."""
        from rich.console import Console

        console = Console()
        console.print(self.table())
        for note in self.notes:
            console.print(f"[dim]{note}[/dim]")

    def plot(self, path: str | Path) -> None:
        """Save the plot (matplotlib): main scores per task, and the pass@k curve where there is
        one.
        """
        from umer1.evaluation.plot import save_plot

        save_plot(self, Path(path))


def _printed(tasks, groups):
    """The released report script's mean for visual documents, where all of them are there."""
    from umer1.evaluation.means.submission import printed_mean

    visdoc = groups.get("visdoc")
    if visdoc is None or set(visdoc["tasks"]) != set(benchmark_groups()["visdoc"]):
        return
    for column, entry in visdoc["main"].items():
        if not entry["missing"]:
            scores = {name: tasks[name]["main"][column] for name in visdoc["tasks"]}
            printed = printed_mean(scores)
            yield (
                f"{group_title('visdoc')}, {column}: {100 * entry['mean']:.2f} over "
                f"{entry['tasks']} tasks; the released report script prints "
                f"{100 * printed['mean']:.2f}, over {printed['tasks']}, without the page tasks"
            )


def _missing_gen_emb(tasks):
    for side, what in (("qry", "queries"), ("tgt", "candidates")):
        counts = {
            name: (entry.get("without_gen_emb") or {}).get(side) for name, entry in tasks.items()
        }
        listed = [f"{name} {count}/{tasks[name][what]}" for name, count in counts.items() if count]
        if listed:
            yield f"{what} whose generation ended without <gen_emb>: {', '.join(listed)}"


def _ties(tasks):
    listed = [
        f"{name} {column} {count}/{entry['queries']}"
        for name, entry in tasks.items()
        for column, count in entry["tied_labels"].items()
        if count
    ]
    if listed:
        yield f"queries whose right candidate ties with a wrong one: {', '.join(listed)}"


def _pairings(tasks):
    """Both numbers where upstream pairs grades with the wrong labels, whichever was reported."""
    for name, entry in tasks.items():
        for column, scores in (entry.get("scores_upstream_pairing") or {}).items():
            correct = {**entry["scores"], **entry.get("scores_correct_pairing", {})}[column]
            metric = entry["main_metric"]
            right, upstream = (100 * values[metric] for values in (correct, scores))
            both = f"{metric} {right:.2f}; {upstream:.2f} with upstream's pairing of grades"
            yield f"{name}, {column}: {both}"


def _task_notes(tasks):
    for name, entry in tasks.items():
        yield from (f"{name}: {note}" for note in entry.get("notes") or ())


def _other_rules(tasks):
    for name, entry in tasks.items():
        if rules := entry.get("scored_with"):
            listed = ", ".join(f"{key} {value}" for key, value in rules.items())
            yield f"{name}: scored by an earlier call, with {listed}"


def group_title(group: str) -> str:
    """Title of a group in tables and plots."""
    return GROUP_TITLES.get(group, group)
