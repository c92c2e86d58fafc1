"""Benchmarks in VLM2Vec's YAML dialect: tasks, their queries and their candidates."""

from .loading import PARSERS, load_tasks
from .media import MissingMedia, require_media
from .tasks import EvalQuery, EvalTask

__all__ = ["PARSERS", "EvalQuery", "EvalTask", "MissingMedia", "load_tasks", "require_media"]
