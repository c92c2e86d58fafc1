"""What a task of the miniature benchmark is: its wording, and functions that draw examples."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from umer1.data.mini.sources import Split


@dataclass(slots=True)
class Part:
    """One side of a pair, or a wrong candidate.

    text       follows the task's instruction for this side
    response   the assistant turn; "" for candidates that are never trained on
    name       media with the same name within a task are the same and are stored once
    truth      what was drawn: source ids in drawing order under "sources", and further facts
    """

    text: str = ""
    response: str = ""
    image: Image.Image | None = None
    frames: list[Image.Image] = field(default_factory=list)
    name: str = ""
    truth: dict = field(default_factory=dict)


@dataclass(slots=True)
class Example:
    """A pair; `wrong` holds the other candidates of a local evaluation task."""

    query: Part
    target: Part
    answer: str
    wrong: list[Part] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Draw:
    """Everything an example may depend on."""

    split: Split
    index: int  # the example's number within its task and split
    count: int  # how many examples that task and split has
    evaluation: bool  # evaluation examples carry wrong candidates
    attempt: int  # counts up when an evaluation example repeats an earlier one
    entropy: tuple[int, ...]  # seed, task and split
    rng: np.random.Generator = field(init=False)

    def __post_init__(self):
        own = np.random.default_rng([*self.entropy, 0, self.index, self.attempt])
        object.__setattr__(self, "rng", own)

    def shared_rng(self, number: int) -> np.random.Generator:
        """The same stream for every example of this task and split that asks with this number."""
        return np.random.default_rng([*self.entropy, 1, number])


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    modality: str  # image | video | visdoc
    kind: str  # one_look | multi_step
    group: str  # the group of MMEB-V2 it stands for
    parser: str  # VLM2Vec's loader, such as image_qa or vidore
    description: str
    query_instruction: str
    target_instruction: str
    make: Callable[[Draw], Example]
    evaluation_limit: int | None = None  # the most examples that the test split has for this task

    @property
    def metric(self) -> str:
        return "ndcg_linear@5" if self.modality == "visdoc" else "hit@1"

    @property
    def eval_type(self) -> str:
        return "global" if self.parser in ("msrvtt", "vidore") else "local"


def pick(rng: np.random.Generator, items: list):
    return items[int(rng.integers(len(items)))]
