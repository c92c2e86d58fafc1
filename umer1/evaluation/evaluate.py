"""Evaluate an embedder on a benchmark: disc, gen, mixed modes, their oracle, and pass@k.

    from umer1 import Embedder
    from umer1.evaluation import evaluate
    report = evaluate(Embedder.load("tiny"), "data/mini", output_dir="runs/eval", samples=16)
    report.print()

What has finished is on disk within seconds, item by item; a killed run continues where it stopped.
Under torchrun every process calls `evaluate` with the same arguments and computes its share.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from umer1.evaluation.datasets import EvalTask, load_tasks, require_media
from umer1.evaluation.datasets.loading import yaml_files
from umer1.evaluation.earlier import earlier_report, scored_pairs, with_earlier
from umer1.evaluation.files import ResultFiles
from umer1.evaluation.modes import MODES, parse_modes
from umer1.evaluation.report import Report
from umer1.evaluation.running.claim import (
    check_claim,
    claim_numerics,
    read_claim,
    task_digest,
    write_claim,
)
from umer1.evaluation.running.encoding import EncodeOptions, Encoding, item_kind
from umer1.evaluation.running.item_journal import ItemJournal
from umer1.evaluation.running.progress import RunProgress
from umer1.evaluation.running.ranks import Ranks
from umer1.evaluation.running.sides import CANDIDATES, QUERIES, SAMPLES, Side
from umer1.evaluation.running.task_entry import Entries
from umer1.evaluation.scores.metrics import PAIRINGS
from umer1.evaluation.scores.ranking import SORTS
from umer1.parts import remove_strays

JOURNAL = ".items"


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
    batch_size: int | None = None,
    seed: int = 0,
    ties: str = "stable",
    pairing: str = "correct",
    prompts: str = "ume-r1",
    hub_map: str | Path | None = None,
    page_data: str = "fixed",
    model_id: str | None = None,
    progress: bool = True,
) -> Report:
    """Score `embedder` and return the report, which is also written to `output_dir` (report.json).

    The report covers all that `output_dir` holds: the tasks, modes and samples of earlier calls stay
    in it. Those of the tasks at hand are scored again, under this call's `ties` and `pairing`.

    Args:
        embedder: an Embedder, or a function that makes it, called when there is something to embed.
        benchmark: what `load_tasks` takes (a YAML file, a directory with image/video/visdoc.yaml,
            "mmeb-v2"), or tasks.
        data_basedir: what paths in the YAML are below; its own directory by default. Paths in the
            index files are relative to it.
        names: only these tasks.
        modes: pairs of modes of queries and candidates: "disc", "gen", "gen-disc", "disc-gen" or,
            with "both" on either side, several of them (`parse_modes`). A side is embedded once in
            all its modes. The oracle comes with disc and gen both.
        samples: k > 1 adds pass@1..k from k sampled query generations at `temperature`; candidates
            and all other scores stay greedy.
        readout: "at", or "after" to read disc vectors where the released evaluation reads them.
        batch_size: rows computed together; by default as many as fit into memory. Changes no
            result.
        ties: "stable" (candidate order), or "upstream" for numpy's default argsort.
        pairing: "correct", or "upstream" for labels and grades as the released evaluation pairs
            them; where that differs the report has both.
        prompts, hub_map, page_data: of `load_tasks`.
        model_id: what identifies the weights; stored with the vectors.

    Raises:
        MissingMedia: pictures or frames are not on disk; no model work was done.
        ValueError: bad input, or `output_dir` holds results of other settings, data or weights, or
            another process is writing there.
    """
    pairs = parse_modes(modes)
    _check(modes, pairs, samples, temperature, ties, pairing, readout, batch_size)
    if isinstance(benchmark, str | Path):
        tasks = load_tasks(
            benchmark,
            data_basedir=data_basedir,
            names=names,
            prompts=prompts,
            hub_map=hub_map,
            page_data=page_data,
        )
        data_basedir = data_basedir or yaml_files(Path(benchmark))[0].parent
    else:
        tasks = list(benchmark)
    options = EncodeOptions(readout, max_new_tokens, samples, temperature, seed)
    output = Path(output_dir)
    basedir = Path(data_basedir) if data_basedir else None
    before, sampling = earlier_report(output), read_claim(output).get("sampling")
    pairs_of = {
        task.name: list(dict.fromkeys([*pairs, *scored_pairs(ResultFiles(output, task.name))]))
        for task in tasks
    }
    sides = [
        side
        for task in tasks
        for side in _sides(task, output, basedir, pairs_of[task.name], samples, sampling)
    ]
    with Ranks() as ranks:
        digests = {task.name: task_digest(task) for task in tasks} if ranks.first else {}
        begin = partial(_begin, output, tasks, digests, options, model_id)
        journal = ranks.in_first(begin) or ItemJournal(output / JOURNAL, ranks.rank)
        shown = RunProgress(_totals(sides), show=progress and ranks.first)
        with journal, shown:
            entries = Entries(sides, digests, pairs_of, ties, pairing, shown.say)
            load = cache(partial(_load, embedder, output, ranks))
            Encoding(
                load,
                options,
                journal,
                ranks,
                shown,
                batch_size=batch_size,
                finished=entries.add,
            ).run(sides)
        if ranks.first:
            claim = read_claim(output)
            sampled = dict(zip(("samples", "temperature"), claim.get("sampling") or ()))
            settings = {
                **asdict(options),
                **sampled,
                "ties": ties,
                "pairing": pairing,
                "prompts": prompts,
                "model": model_id,
                "dtype": claim.get("dtype"),
                "data_basedir": str(basedir) if basedir else None,  # where a report finds pictures
            }
            made = {task.name: entries.of[task.name] for task in tasks}
            report = with_earlier(output, before, settings, made)
            report.save(output / "report.json")
        ranks.meet()
        return report if ranks.first else Report.load(output / "report.json")


def _check(modes, pairs, samples, temperature, ties, pairing, readout, batch_size):
    if samples < 1 or (samples > 1 and ("gen", "gen") not in pairs):
        raise ValueError(
            f"samples: got {samples} with modes {modes!r}; "
            "pass@k needs samples >= 1 and the mode gen"
        )
    if samples > 1 and not temperature > 0:
        raise ValueError(f"temperature: got {temperature}; samples of a query differ only above 0")
    if ties not in SORTS or readout not in ("at", "after") or pairing not in PAIRINGS:
        raise ValueError(
            f"got ties={ties!r}, readout={readout!r}, pairing={pairing!r}; "
            f"need {'|'.join(SORTS)}, at|after and {'|'.join(PAIRINGS)}"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, wants at least 1")


def _sides(task, output, basedir, pairs, samples, sampling):
    """What of a task is embedded, in the order in which it is; sampling: of earlier calls."""
    modes = [{pair[number] for pair in pairs} for number in (0, 1)]
    queries, candidates = (tuple(mode for mode in MODES if mode in side) for side in modes)
    result = ResultFiles(output, task.name)
    yield Side(task, QUERIES, queries, result, basedir)
    yield Side(task, CANDIDATES, candidates, result, basedir)
    if samples == 1 and sampling and ("gen", "gen") in pairs and result.samples().is_file():
        samples = sampling[0]
    if samples > 1:
        yield Side(task, SAMPLES, ("gen",), result, basedir, samples)


def _begin(output, tasks, digests, options, model_id):
    """Everything that can be wrong before any model runs; then the directory is this run's."""
    for task in tasks:
        if not task.queries or not task.candidates:
            raise ValueError(
                f"{task.name}: has {len(task.queries)} queries and {len(task.candidates)} "
                "candidates, nothing can be ranked"
            )
    require_media(tasks)
    depends = {
        "model": model_id,
        "readout": options.readout,
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
    }
    sampling = [options.samples, options.temperature] if options.samples > 1 else None
    check_claim(output, digests, depends, sampling)
    journal = ItemJournal(output / JOURNAL)
    remove_strays(output)
    write_claim(output, digests, depends, sampling)
    return journal


def _load(embedder, output, ranks):
    made = embedder() if callable(embedder) else embedder
    claim_numerics(output, made, write=ranks.first)
    return made


def _totals(sides):
    """(task, kind) -> items, as RunProgress counts them: each sample of a query is one."""
    totals = Counter()
    for side in sides:
        for place in range(len(side.items)):
            totals[side.task.name, item_kind(side, place)] += side.count
    return totals
