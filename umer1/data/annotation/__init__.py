"""Reasoning and summaries for training pairs, written by a thinking model behind an endpoint."""

from umer1.data.annotation.annotate import Options, annotate
from umer1.data.annotation.endpoint import EndpointError, Sampling
from umer1.data.annotation.filters import Filters
from umer1.data.annotation.messages import SentMedia
from umer1.data.annotation.prompts import Prompts
from umer1.data.annotation.waiting import Retries

__all__ = [
    "EndpointError",
    "Filters",
    "Options",
    "Prompts",
    "Retries",
    "Sampling",
    "SentMedia",
    "annotate",
]
