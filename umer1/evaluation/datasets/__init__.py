"""Benchmarks in VLM2Vec's YAML dialect: tasks, their queries and their candidates."""

from umer1.evaluation.datasets.loading import PARSERS, load_tasks
from umer1.evaluation.datasets.media import MissingMedia, require_media
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

__all__ = ["PARSERS", "EvalQuery", "EvalTask", "MissingMedia", "load_tasks", "require_media"]
