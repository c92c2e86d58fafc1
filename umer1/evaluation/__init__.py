"""MMEB-V2 evaluation: upstream's files, exact metrics, oracle, pass@k, reports."""

from umer1.evaluation.datasets import EvalQuery, EvalTask, MissingMedia, load_tasks, require_media
from umer1.evaluation.evaluate import evaluate
from umer1.evaluation.insights.oracle import oracle
from umer1.evaluation.insights.pass_at_k import pass_at_k
from umer1.evaluation.report import Report
from umer1.evaluation.scores.metrics import score_queries, score_query
from umer1.evaluation.scores.scoring import score_files, score_task

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
