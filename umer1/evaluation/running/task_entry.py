"""The entry of a task in the report, made from its result files."""

from collections.abc import Callable, Iterable, Mapping

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask
from umer1.evaluation.files import ResultFiles
from umer1.evaluation.insights.oracle import oracle
from umer1.evaluation.insights.pass_at_k import pass_at_k
from umer1.evaluation.modes import mode_name
from umer1.evaluation.running.encoding import count_missing
from umer1.evaluation.running.sides import CANDIDATES, QUERIES, SAMPLES, Side
from umer1.evaluation.scores.scoring import COMPLETE, score_task, top_is_right

SAME = [("disc", "disc"), ("gen", "gen")]


class Entries:
    """Entries of tasks as their sides are written. `of`: task name -> entry.

    digests: task name -> digest of its data. pairs: task name -> its pairs of modes. say: is told
    each task's scores.
    """

    def __init__(
        self,
        sides: Iterable[Side],
        digests: Mapping[str, str],
        pairs: Mapping[str, list[tuple[str, str]]],
        ties: str,
        pairing: str,
        say: Callable[[str], None],
    ):
        self.of: dict[str, dict] = {}
        self._digests = digests
        self._pairs, self._ties, self._pairing, self._say = pairs, ties, pairing, say
        self._sides: dict[str, dict[str, Side]] = {}
        self._ready: dict[str, set[str]] = {}
        for side in sides:
            self._sides.setdefault(side.task.name, {})[side.name] = side
            self._ready[side.task.name] = set()

    def add(self, side: Side) -> None:
        """A side's files are written."""
        name = side.task.name
        sides, ready = self._sides[name], self._ready[name]
        ready.add(side.name)
        if name not in self.of and {QUERIES, CANDIDATES} <= ready:
            queries, candidates = sides[QUERIES], sides[CANDIDATES]
            entry = make_entry(queries, candidates, self._pairs[name], self._ties, self._pairing)
            self.of[name] = {**entry, "data": self._digests[name]}
            self._say(f"{name}: {describe(self.of[name])}")
        if name in self.of and SAMPLES in ready and "pass_at_k" not in self.of[name]:
            add_pass_at_k(self.of[name], sides[SAMPLES], sides[CANDIDATES], self._ties)


def make_entry(
    queries: Side, candidates: Side, pairs: list[tuple[str, str]], ties: str, pairing: str
) -> dict:
    """Score a task whose sides are written, in every pair of modes; writes upstream's files."""
    task, result = queries.task, queries.result
    vectors = {}
    for side in (queries, candidates):
        for mode in side.modes:
            vectors[side.name, mode] = side.load(mode)
            side.complete(mode, vectors[side.name, mode])
    scored = {}
    for pair in pairs:
        rows, columns = vectors[queries.name, pair[0]], vectors[candidates.name, pair[1]]
        device = scoring_device(len(rows), len(columns))
        scored[pair] = score_task(task, rows, columns, ties=ties, pairing=pairing, device=device)
        info, prediction, score = (
            result.scored(*pair, what) for what in ("info.jsonl", "pred.jsonl", "score.json")
        )
        files.save_jsonl(info, (query.info() for query in task.queries), sync=False)
        files.save_jsonl(prediction, scored[pair].predictions, sync=False)
        files.save_json(score, scored[pair].scores.mean(), sync=False)
    entry = {
        "modality": task.modality,
        "group": task.group,
        "kind": task.kind,
        "eval_type": task.eval_type,
        "main_metric": task.main_metric,
        "queries": len(task.queries),
        "candidates": len(task.candidates),
        "revision": task.revision,
        "main": {mode_name(pair): _main(task, scored[pair]) for pair in pairs},
        "scores": {mode_name(pair): scored[pair].scores.mean() for pair in pairs},
        "tied_labels": {mode_name(pair): scored[pair].tied for pair in pairs},
        "without_gen_emb": {side: _missing(result, side) for side in ("qry", "tgt")},
    }
    if all(pair in scored for pair in SAME):
        disc, gen = (scored[pair].scores.values[task.main_metric] for pair in SAME)
        entry["main"]["oracle"] = float(oracle(disc, gen).mean())
    if upstream := {
        mode_name(pair): one.upstream.mean() for pair, one in scored.items() if one.upstream
    }:
        entry["scores_upstream_pairing"] = upstream
        if pairing == "upstream":
            entry["scores_correct_pairing"] = {
                mode_name(pair): scored[pair].correct.mean() for pair in pairs
            }
    notes = [*task.notes, *(note for one in scored.values() for note in one.notes)]
    if notes:
        entry["notes"] = list(dict.fromkeys(notes))
    return entry


def add_pass_at_k(entry: dict, samples: Side, candidates: Side, ties: str) -> None:
    """Add pass@1..k of the sampled queries against the greedy candidates."""
    right = top_is_right(samples.task, samples.load("gen"), candidates.load("gen"), ties=ties)
    entry["pass_at_k"] = {str(k): value for k, value in pass_at_k(right).items()}


def scoring_device(queries: int, candidates: int) -> str | None:
    """Where scores are multiplied: a GPU, if there is one, for more than can be kept at once."""
    if queries * candidates <= COMPLETE:
        return None
    import torch

    return "cuda" if torch.cuda.is_available() else None


def describe(entry: dict) -> str:
    """A line about a task that has just been scored."""
    scores = [f"{column} {100 * value:.1f}" for column, value in entry["main"].items()]
    return f"{entry['main_metric']}: {', '.join(scores)}"


def _main(task: EvalTask, scored) -> float:
    return float(scored.scores.values[task.main_metric].mean())


def _missing(result: ResultFiles, side: str) -> int | None:
    path = result.texts(side, "gen")
    return count_missing(files.load_jsonl(path)) if path.is_file() else None
