"""Vectors of one side of a task, from the embedder or from the files of an earlier run."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask
from umer1.evaluation.files import ResultFiles


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How the embedder is called; part of what a result depends on.

    readout: where the disc vector is read, "at" the token or "after" it (the released evaluation).
    temperature, samples: of the sampled query encodings for pass@k; everything else is greedy.
    """

    readout: str = "at"
    max_new_tokens: int = 512
    samples: int = 1
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 32


# items per call of the embedder: often enough for a progress bar; independent of the batch size, so
# that sampled results are too
CHUNK = 512


class Encoder:
    """Encodes items in chunks, so that progress is seen and results arrive, and checks what comes
    back.
    """

    def __init__(self, embedder, options: EncodeOptions, advance: Callable[[int], None]):
        self.embedder, self.options, self.advance = embedder, options, advance

    def side(
        self, task: EvalTask, result: ResultFiles, side: str, modes: list[str]
    ) -> dict[str, np.ndarray]:
        """mode -> float32 [rows, D] of a side ("qry": one row per query, "tgt": one per candidate).

        Modes whose file is there are read; the others are encoded in one pass and written.
        """
        items = (
            [query.item for query in task.queries]
            if side == "qry"
            else list(task.candidates.values())
        )
        found = {
            mode: self._load(task, result, side, mode)
            for mode in modes
            if result.vectors(side, mode).is_file()
        }
        needed = [mode for mode in modes if mode not in found]
        if not needed:
            self.advance(len(items))
            return found
        vectors, texts = self._encode(items, "both" if len(needed) == 2 else needed[0])
        if texts:
            # before the vectors: a side counts as done once its vectors are there
            files.save_jsonl(result.texts(side, "gen"), texts)
        for mode in needed:
            if side == "qry":
                files.save_queries(result.vectors(side, mode), vectors[mode])
            else:
                files.save_candidates(result.vectors(side, mode), task.candidates, vectors[mode])
        return {**found, **{mode: vectors[mode] for mode in needed}}

    def samples(self, task: EvalTask, result: ResultFiles) -> np.ndarray:
        """Sampled gen vectors of the queries, float32 [N, k, D]."""
        shape = (len(task.queries), self.options.samples)
        if result.samples().is_file():
            sampled = files.load_array(result.samples())
            if sampled.shape[:2] != shape:
                raise ValueError(
                    f"{result.samples()}: holds {list(sampled.shape[:2])} samples, "
                    f"the task needs {list(shape)}"
                )
            self.advance(shape[0] * shape[1])
            return sampled
        vectors, texts = self._encode([query.item for query in task.queries], "gen", count=shape[1])
        sampled = vectors["gen"].reshape(*shape, -1)
        files.save_jsonl(result.sample_texts(), texts)
        files.save_array(result.samples(), sampled)
        return sampled

    def _load(self, task, result, side, mode):
        path = result.vectors(side, mode)
        if side == "qry":
            vectors, expected = files.load_queries(path), len(task.queries)
            if len(vectors) != expected:
                raise ValueError(f"{path}: holds {len(vectors)} queries, the task has {expected}")
            return vectors
        names, vectors = files.load_candidates(path)
        if names == list(task.candidates):
            return vectors
        # another machine's file names candidates by absolute paths: compare the last two components
        row_of = {_short(name): row for row, name in enumerate(names)}
        rows = [row_of.get(_short(name)) for name in task.candidates]
        if None in rows or len(row_of) != len(names):
            raise ValueError(
                f"{path}: its {len(names)} candidates are not the task's {len(task.candidates)}"
            )
        return vectors[rows]

    def _encode(self, items, mode, count=1):
        chunks, texts = [], []
        for start in range(0, len(items), CHUNK):
            part = items[start : start + CHUNK]
            encoded = self.embedder.encode(
                part,
                mode=mode,
                readout=self.options.readout,
                max_new_tokens=self.options.max_new_tokens,
                n=count,
                temperature=self.options.temperature if count > 1 else 0.0,
                # each chunk numbers its items from 0 again
                seed=self.options.seed + start,
                batch_size=self.options.batch_size,
                progress=False,
            )
            kinds = ("disc", "gen") if mode == "both" else (mode,)
            chunks.append({kind: _vectors(encoded, kind, len(part), count) for kind in kinds})
            if mode != "disc":
                texts += [_text(encoded, row) for row in range(len(part))]
            self.advance(len(part) * count)
        return {
            kind: np.concatenate([chunk[kind] for chunk in chunks]) for kind in chunks[0]
        }, texts


def count_missing(texts: list[dict]) -> int:
    """How many generations ended without <gen_emb>; their vectors are stand-ins and are reported as
    such.
    """
    endings = [finish for row in texts for finish in _as_list(row["finish"])]
    return sum(finish != "gen_emb" for finish in endings)


def _vectors(encoded, kind, rows, count):
    vectors = getattr(encoded, kind)
    vectors = np.asarray(vectors.cpu() if hasattr(vectors, "cpu") else vectors, dtype=np.float32)
    if vectors.shape[0] != rows or vectors.ndim != (3 if kind == "gen" and count > 1 else 2):
        raise ValueError(
            f"the embedder returned {kind} of shape {list(vectors.shape)} "
            f"for {rows} items, n={count}"
        )
    return vectors


def _text(encoded, row):
    fields = ("finish", "reasoning", "summary")
    return {field: getattr(encoded, field)[row] for field in fields}


def _short(name):
    return "/".join(str(name).split("/")[-2:])


def _as_list(value):
    return [value] if isinstance(value, str) else list(value)
