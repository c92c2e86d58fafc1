"""MMEB-V2 evaluation: upstream's files, exact metrics, oracle, pass@k, reports."""

from .datasets import EvalQuery, EvalTask, MissingMedia, load_tasks, require_media
from .evaluate import evaluate
from .metrics import score_queries, score_query
from .oracle import oracle
from .pass_at_k import pass_at_k
from .report import Report
from .scoring import score_files, score_task

__all__ = [
    "EvalQuery",
    "EvalTask",
    "MissingMedia",
    "Report",
    "evaluate",
    "load_tasks",
    "oracle",
    "pass_at_k",
    "require_media",
    "score_files",
    "score_queries",
    "score_query",
    "score_task",
]
