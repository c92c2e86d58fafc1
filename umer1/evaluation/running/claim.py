"""What the vectors in a directory depend on (run.json), so that those of two runs are never mixed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask


def check_claim(
    output: Path, digests: Mapping[str, str], settings: dict, sampling: list | None
) -> None:
    """Raise ValueError if `output` holds results of other settings, data or weights.

    digests: task name -> task_digest. sampling: [samples, temperature], or None; it may be added to
    a run that had none.
    """
    known = read_claim(output)
    for key, value in {**settings, "sampling": sampling}.items():
        free = key == "sampling" and None in (value, known.get(key))
        if not free and known.get(key, value) != value:
            raise ValueError(
                f"{output} holds results with {key}={known[key]!r}, now {value!r}: "
                "use another directory"
            )
    for name, digest in digests.items():
        if known["tasks"].get(name, digest) != digest:
            raise ValueError(
                f"{output} holds results of {name} for other data: use another directory"
            )


def write_claim(
    output: Path, digests: Mapping[str, str], settings: dict, sampling: list | None
) -> None:
    """Record what the vectors to come depend on, beside what is recorded already."""
    known = read_claim(output)
    tasks = {**known.pop("tasks"), **digests}
    sampling = sampling or known.get("sampling")
    _write(output, {**known, **settings, "sampling": sampling, "tasks": tasks})


def claim_numerics(output: Path, embedder, *, write: bool) -> None:
    """Hold on to what the weights are multiplied in, once the model is loaded: vectors of bfloat16
    and of float32 are not mixed either.

    Raises ValueError if the run was begun in another dtype.
    """
    dtype = getattr(getattr(embedder, "model", None), "dtype", None)
    if dtype is None:
        return
    known, name = read_claim(output), str(dtype).removeprefix("torch.")
    before = known.get("dtype", name)
    if before != name:
        raise ValueError(
            f"{output} holds results computed in {before}, now {name}: "
            "use another directory, or the device of before"
        )
    if write and "dtype" not in known:
        _write(output, {"dtype": name, **known})


def read_claim(output: Path) -> dict:
    """run.json of a directory, or the beginning of one."""
    path = output / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"tasks": {}}


def task_digest(task: EvalTask) -> str:
    """Short digest of a task's texts, names, labels and grades: the revision of its data.

    Media count by file name, not by content or place, so that a copied benchmark keeps its digest.
    """
    rows = [[_portable(query.item), _graded(query)] for query in task.queries]
    rows += [[name, _portable(item)] for name, item in task.candidates.items()]
    text = json.dumps([task.eval_type, rows], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _graded(query):
    """What is ranked and what is right, without what else upstream notes (paths among it)."""
    parts = ("cand_names", "label_name", "rel_scores")
    return {name: value for name, value in query.info().items() if name in parts}


def _portable(item):
    short = dict(item)
    for key in ("image", "video"):
        if key in short:
            listed = short[key] if isinstance(short[key], list) else [short[key]]
            short[key] = ["/".join(Path(path).parts[-2:]) for path in listed]
    return short


def _write(output: Path, content: dict) -> None:
    if content != read_claim(output):
        files.save_json(output / "run.json", content)
