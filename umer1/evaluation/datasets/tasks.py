"""What an evaluation task is, independent of the benchmark file it came from."""

from dataclasses import dataclass, field

MAIN_METRIC = {"image": "hit@1", "video": "hit@1", "visdoc": "ndcg_linear@5"}


@dataclass(slots=True)
class EvalQuery:
    """One query: what is embedded, what it is ranked against, what is right.

    item: the embedder's input (`text`, `image`, `video`, `instruction`). candidates: names, in the
    order of the source; a name is a string, or an integer where a page table numbers its pages.
    label: one name or several; an empty list is a query that nothing answers, and scores 0.
    grades: relevance per label, 1 each when None. extra: what upstream adds to the query's row of
    `_info.jsonl` (video questions).
    """

    item: dict
    candidates: list[str]
    label: str | list[str]
    grades: list[float] | None = None
    extra: dict | None = None

    @property
    def labels(self) -> list[str]:
        return list(self.label) if isinstance(self.label, list) else [self.label]

    def info(self) -> dict:
        """Its row of upstream's `_info.jsonl`."""
        row = {"cand_names": self.candidates, "label_name": self.label, **(self.extra or {})}
        return row if self.grades is None else {**row, "rel_scores": self.grades}


@dataclass(slots=True)
class EvalTask:
    """A task: queries, and every candidate once, in the order in which the source names them first.

    eval_type "local": a query is ranked against its own candidates; "global": against all of them.
    kind: "one_look" or "multi_step" where the benchmark says so (tasks.json of the miniature
    benchmark). group: "CLS", "QA", … where it is known. revision: which data this is: the hub's
    repository with its commit where that is known, else the path in the YAML. expected: the numbers
    of queries and of candidates that the published benchmark has, each None where it is not known.
    notes: what a reader of the scores should know about the data.
    """

    name: str
    modality: str
    eval_type: str
    queries: list[EvalQuery] = field(default_factory=list)
    candidates: dict[str, dict] = field(default_factory=dict)
    kind: str | None = None
    main_metric: str = ""
    group: str | None = None
    revision: str | None = None
    expected: tuple[int | None, int | None] | None = None
    notes: list[str] = field(default_factory=list)

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

    def add_texts(self, texts: list[str]) -> list[str]:
        """Add candidates that are their own names."""
        for text in texts:
            if text not in self.candidates:
                self.candidates[text] = {"text": text}
        return texts
