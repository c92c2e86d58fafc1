"""What an evaluation task is, independent of the benchmark file it came from."""

from dataclasses import dataclass, field

MAIN_METRIC = {"image": "hit@1", "video": "hit@1", "visdoc": "ndcg_linear@5"}


@dataclass(slots=True)
class EvalQuery:
    """One query: what is embedded, what it is ranked against, what is right.

    item: the embedder's input (`text`, `image`, `video`). candidates: names, in the order of the
    source.
    label: one name or several. grades: relevance per label, 1 each when None.
    """

    item: dict
    candidates: list[str]
    label: str | list[str]
    grades: list[float] | None = None

    @property
    def labels(self) -> list[str]:
        return [self.label] if isinstance(self.label, str) else list(self.label)

    def info(self) -> dict:
        """Its row of upstream's `_info.jsonl`."""
        row = {"cand_names": self.candidates, "label_name": self.label}
        return row if self.grades is None else {**row, "rel_scores": self.grades}


@dataclass(slots=True)
class EvalTask:
    """A task: queries, and every candidate once, in the order in which the source names them first.

    eval_type "local": a query is ranked against its own candidates; "global": against all of them.
    kind: "one_look" or "multi_step" where the benchmark says so (tasks.json of the miniature
    benchmark).
    """

    name: str
    modality: str
    eval_type: str
    queries: list[EvalQuery] = field(default_factory=list)
    candidates: dict[str, dict] = field(default_factory=dict)
    kind: str | None = None
    main_metric: str = ""

    def __post_init__(self):
        if self.modality not in MAIN_METRIC:
            raise ValueError(
                f"{self.name}: modality {self.modality!r}, need one of {', '.join(MAIN_METRIC)}"
            )
        if self.eval_type not in ("local", "global"):
            raise ValueError(f"{self.name}: eval_type {self.eval_type!r}, need local or global")
        self.main_metric = self.main_metric or MAIN_METRIC[self.modality]

    def add_candidate(self, name: str, item: dict) -> str:
        """Add a candidate unless its name is there: the first occurrence wins, as upstream defines
        its tasks.
        """
        self.candidates.setdefault(name, item)
        return name
