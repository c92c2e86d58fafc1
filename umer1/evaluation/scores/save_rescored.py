"""Scores made again, as result files and a report; those of a run's own directory replace its scores."""

from collections.abc import Iterable
from pathlib import Path

from umer1.evaluation import files
from umer1.evaluation.earlier import earlier_report, rules_of, with_earlier
from umer1.evaluation.files import ResultFiles
from umer1.evaluation.insights.oracle import oracle
from umer1.evaluation.insights.pass_at_k import pass_at_k
from umer1.evaluation.modes import MODES
from umer1.evaluation.report import Report
from umer1.evaluation.runs import TaskRun
from umer1.evaluation.scores.rescore import Rescored


def open_output(output: str | Path, directory: str | Path) -> Report | None:
    """The report in `output` that scores of `directory` are added to; None where there is none.

    Raises ValueError if it is of other vectors: `output` is neither `directory`, nor was it written
    from it before.
    """
    before = earlier_report(output)
    scored = str(Path(directory).resolve())
    if before is None or str(Path(output).resolve()) == scored:
        return before
    if (other := before.settings.get("vectors")) != scored:
        raise ValueError(
            f"output: {output} has a report of {other or 'its own vectors'}, not of {directory}: "
            "use another directory"
        )
    return before


def save_rescored(
    output: str | Path, directory: str | Path, results: Iterable[Rescored], rules: dict
) -> Report:
    """Write score, prediction and info files with modes in their names, and report.json.

    What a report that is there says of other tasks, of the run's settings and its data stays.
    rules: the ties and pairing of the scores. Raises ValueError as `open_output`.
    """
    before = open_output(output, directory)
    own = {"model": None, "vectors": str(Path(directory).resolve())}
    settings = {**own, **(before.settings if before else {}), **rules}
    by_task: dict[str, list[Rescored]] = {}
    for one in results:
        _write(output, one)
        by_task.setdefault(one.stored.name, []).append(one)
    tasks = {}
    for name, scored in by_task.items():
        known = before.tasks.get(name, {}) if before else {}
        tasks[name] = _entry(scored, known, rules)
        if notes := _notes(tasks[name], scored, before, rules):
            tasks[name]["notes"] = notes
        if "pass_at_k" in known and any(one.stored.column == "gen" for one in scored):
            run = TaskRun(name, Path(output), tasks[name])
            if (right := run.samples_right(rules.get("ties", "stable"))) is not None:
                tasks[name]["pass_at_k"] = {str(k): value for k, value in pass_at_k(right).items()}
    report = with_earlier(output, before, settings, tasks)
    report.save(Path(output) / "report.json")
    return report


def _write(output, one):
    pair = one.stored.modes or ("disc", "disc")
    result = ResultFiles(output, one.stored.name)
    infos = one.stored.load_infos(one.kind.eval_type)
    files.save_jsonl(result.scored(*pair, "info.jsonl"), infos)
    files.save_jsonl(result.scored(*pair, "pred.jsonl"), one.scored.predictions)
    files.save_json(result.scored(*pair, "score.json"), one.scored.scores.mean())


def _entry(scored, known, rules):
    """The entry of a task scored under some pairs of modes. known: what the report says of it."""
    kind, first = scored[0].kind, scored[0]
    done = {one.stored.column: one for one in scored}
    entry = {
        "without_gen_emb": {"qry": None, "tgt": None},
        **{key: value for key, value in known.items() if key != "scored_with"},
        "modality": kind.modality,
        "kind": kind.kind,
        "group": kind.group,
        "revision": kind.revision,
        "eval_type": kind.eval_type,
        "main_metric": first.metric,
        "queries": first.queries,
        "candidates": first.candidates,
    }
    graded = {column: one.scored for column, one in done.items() if one.scored.upstream is not None}
    upstream = {column: one.upstream.mean() for column, one in graded.items()}
    correct = {column: one.correct.mean() for column, one in graded.items()}
    for key, values in {
        "main": {column: one.main for column, one in done.items()},
        "scores": {column: one.scored.scores.mean() for column, one in done.items()},
        "tied_labels": {column: one.scored.tied for column, one in done.items()},
        "scores_upstream_pairing": upstream,
        "scores_correct_pairing": correct if rules.get("pairing") == "upstream" else {},
    }.items():
        older = {column: own for column, own in known.get(key, {}).items() if column not in done}
        entry[key] = {**older, **values}
        if not entry[key]:
            del entry[key]
    if set(MODES) <= set(done):
        disc, gen = (done[mode].scored.scores.values[first.metric] for mode in MODES)
        entry["main"]["oracle"] = float(oracle(disc, gen).mean())
    return entry


def _notes(entry, scored, before, rules):
    """Also of columns that were not scored again, their vectors being gone, if the rules changed."""
    notes = [*entry.get("notes", ()), *(note for one in scored for note in one.scored.notes)]
    done = {one.stored.column for one in scored}
    older = [column for column in entry["main"] if column not in {*done, "oracle"}]
    made = rules_of(before.settings) if before else {}
    other = [f"{key} {value}" for key, value in made.items() if rules.get(key, value) != value]
    if older and other:
        notes.append(f"{', '.join(older)}: scored by an earlier call, with {', '.join(other)}")
    return list(dict.fromkeys(notes))
