"""Evaluate an embedder on a benchmark: disc, gen, mixed modes, their oracle, and pass@k.

    from umer1 import Embedder
    from umer1.evaluation import evaluate
    report = evaluate(Embedder.load("tiny"), "data/mini", output_dir="runs/eval", samples=16)
    report.print()

Everything is written under upstream's file names as it is computed, so a killed run continues where
it stopped.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask, load_tasks, require_media
from umer1.evaluation.encoding import EncodeOptions, Encoder, count_missing
from umer1.evaluation.files import ResultFiles
from umer1.evaluation.modes import mode_name, parse_modes
from umer1.evaluation.oracle import oracle
from umer1.evaluation.pass_at_k import pass_at_k
from umer1.evaluation.ranking import SORTS
from umer1.evaluation.report import Report
from umer1.evaluation.scoring import score_task, top_is_right
from umer1.progress import progress_bar

SAME = [("disc", "disc"), ("gen", "gen")]


def evaluate(
    embedder,
    benchmark: str | Path | Iterable[EvalTask],
    *,
    output_dir: str | Path,
    data_basedir: str | Path | None = None,
    names: Iterable[str] | None = None,
    modes: str | Iterable[str | tuple[str, str]] = ("disc", "gen"),
    samples: int = 1,
    temperature: float = 1.0,
    readout: str = "at",
    max_new_tokens: int = 512,
    batch_size: int = 32,
    seed: int = 0,
    ties: str = "stable",
    prompts: str = "ume-r1",
    model_id: str | None = None,
    progress: bool = True,
) -> Report:
    """Score `embedder` and return the report, which is also written to `output_dir` (report.json).

    Args:
        benchmark: a YAML file, a directory with image/video/visdoc.yaml, or tasks.
        data_basedir: what paths in the YAML are below; its own directory by default.
        names: only these tasks.
        modes: any of "disc", "gen", "gen-disc", "disc-gen" (query side first). The oracle comes
            with disc and gen both.
        samples: k > 1 adds pass@1..k from k sampled query generations at `temperature`; candidates
            and all other scores stay greedy.
        readout: "at", or "after" to read disc vectors where the released evaluation reads them.
        ties: "stable" (candidate order), or "upstream" for numpy's default argsort.
        prompts: "ume-r1" or "vlm2vec", where their instructions differ.
        model_id: what identifies the weights; stored with the vectors.

    Raises:
        MissingMedia: pictures or frames are not on disk; no model work was done.
        ValueError: bad input, or `output_dir` holds results of other settings, data or weights.
    """
    pairs = parse_modes(modes)
    if samples < 1 or (samples > 1 and ("gen", "gen") not in pairs):
        raise ValueError(
            f"samples: got {samples} with modes {modes!r}; "
            "pass@k needs samples >= 1 and the mode gen"
        )
    if samples > 1 and not temperature > 0:
        raise ValueError(f"temperature: got {temperature}; samples of a query differ only above 0")
    if ties not in SORTS or readout not in ("at", "after"):
        raise ValueError(
            f"got ties={ties!r}, readout={readout!r}; need {'|'.join(SORTS)} and at|after"
        )
    if isinstance(benchmark, str | Path):
        tasks = load_tasks(benchmark, data_basedir=data_basedir, names=names, prompts=prompts)
    else:
        tasks = list(benchmark)
    require_media(tasks)
    options = EncodeOptions(readout, max_new_tokens, samples, temperature, seed, batch_size)
    output = Path(output_dir)
    _claim(output, tasks, options, model_id)
    entries = {}
    with progress_bar("evaluate", _total(tasks, samples), unit="items", show=progress) as bar:
        for task in tasks:
            encoder = Encoder(embedder, options, partial(bar.advance, task=task.name))
            result = ResultFiles(output, task.name)
            entries[task.name] = _evaluate_task(task, encoder, result, pairs, ties)
    settings = {**asdict(options), "ties": ties, "prompts": prompts, "model": model_id}
    report = Report(settings=settings, tasks=entries)
    report.save(output / "report.json")
    return report


def _evaluate_task(task, encoder, result, pairs, ties):
    queries, candidates = (
        encoder.side(task, result, side, sorted({pair[number] for pair in pairs}))
        for number, side in enumerate(("qry", "tgt"))
    )
    scored = {}
    for pair in pairs:
        scored[pair] = score_task(task, queries[pair[0]], candidates[pair[1]], ties=ties)
        files.save_jsonl(
            result.scored(*pair, "info.jsonl"), (query.info() for query in task.queries)
        )
        files.save_jsonl(result.scored(*pair, "pred.jsonl"), scored[pair].predictions)
        files.save_json(result.scored(*pair, "score.json"), scored[pair].scores.mean())
    entry = {
        "modality": task.modality,
        "kind": task.kind,
        "eval_type": task.eval_type,
        "main_metric": task.main_metric,
        "queries": len(task.queries),
        "candidates": len(task.candidates),
        "data": task_digest(task),
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
    if encoder.options.samples > 1:
        right = top_is_right(task, encoder.samples(task, result), candidates["gen"], ties=ties)
        entry["pass_at_k"] = {str(k): value for k, value in pass_at_k(right).items()}
    return entry


def _total(tasks, samples):
    """Items to encode: queries once greedily and once per sample, candidates once."""
    sampled = samples if samples > 1 else 0
    return sum(len(task.queries) * (1 + sampled) + len(task.candidates) for task in tasks)


def _main(task, scored):
    return float(scored.scores.values[task.main_metric].mean())


def _missing(result, side):
    path = result.texts(side, "gen")
    return count_missing(files.load_jsonl(path)) if path.is_file() else None


def task_digest(task: EvalTask) -> str:
    """Short digest of a task's texts, names, labels and grades: the revision of its data.

    Media count by file name, not by content or place, so that a copied benchmark keeps its digest.
    """
    rows = [[_portable(query.item), query.info()] for query in task.queries]
    rows += [[name, _portable(item)] for name, item in task.candidates.items()]
    text = json.dumps([task.eval_type, rows], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _portable(item):
    short = dict(item)
    for key in ("image", "video"):
        if key in short:
            listed = short[key] if isinstance(short[key], list) else [short[key]]
            short[key] = ["/".join(Path(path).parts[-2:]) for path in listed]
    return short


def _claim(output, tasks, options, model_id):
    """Record what the vectors in `output` depend on; refuse a directory that holds those of another
    run.
    """
    path = output / "run.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"tasks": {}}
    claim = {
        "model": model_id,
        "readout": options.readout,
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
        "sampling": [options.samples, options.temperature]
        if options.samples > 1
        else known.get("sampling"),
    }
    for key, value in claim.items():
        # sampling may be added to a run that had none
        if key in known and known[key] != value and not (key == "sampling" and known[key] is None):
            raise ValueError(
                f"{output} holds results with {key}={known[key]!r}, now {value!r}: "
                "use another directory"
            )
    digests = {task.name: task_digest(task) for task in tasks}
    for name, digest in digests.items():
        if known["tasks"].get(name, digest) != digest:
            raise ValueError(
                f"{output} holds results of {name} for other data: use another directory"
            )
    files.save_json(path, {**claim, "tasks": {**known["tasks"], **digests}})
