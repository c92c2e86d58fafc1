"""What earlier calls left in an output directory: a report covers all that its result files hold."""

from itertools import product
from pathlib import Path

from umer1.evaluation.files import ResultFiles
from umer1.evaluation.modes import MODES, parse_modes
from umer1.evaluation.report import Report

# settings by which tasks of one directory may differ; the vectors' own are in run.json
RULES = ("ties", "pairing", "prompts")


def earlier_report(output: str | Path) -> Report | None:
    """The report in a directory, None where there is none yet."""
    path = Path(output) / "report.json"
    return Report.load(path) if path.is_file() else None


def with_earlier(
    output: str | Path, before: Report | None, settings: dict, tasks: dict[str, dict]
) -> Report:
    """The report of `tasks` (their new entries) and of the earlier ones whose score files are there.

    An earlier entry made by other rules than `settings` has them under "scored_with".
    """
    kept = {}
    for name, entry in before.tasks.items() if before else ():
        if name in tasks or _scores_there(ResultFiles(output, name), entry):
            made = {**rules_of(before.settings), **entry.get("scored_with", {})}
            other = {key: value for key, value in made.items() if settings.get(key) != value}
            kept[name] = {key: value for key, value in entry.items() if key != "scored_with"}
            if other:
                kept[name]["scored_with"] = other
    return Report(settings, {**kept, **tasks})


def rules_of(settings: dict) -> dict:
    """The rules among a report's settings."""
    return {key: settings[key] for key in RULES if key in settings}


def scored_pairs(result: ResultFiles) -> list[tuple[str, str]]:
    """The pairs of modes of a task that have scores, and still the vectors they are of."""
    return [
        pair
        for pair in product(MODES, MODES)
        if result.scored(*pair, "score.json").is_file()
        and result.vectors("qry", pair[0]).is_file()
        and result.vectors("tgt", pair[1]).is_file()
    ]


def _scores_there(result, entry):
    pairs = parse_modes([column for column in entry["main"] if column != "oracle"])
    return all(result.scored(*pair, "score.json").is_file() for pair in pairs)
