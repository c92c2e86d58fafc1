"""Runs side by side, and the pages that show it: HTML, Markdown, plots."""

from umer1.evaluation.pages.comparison import Comparison, compare
from umer1.evaluation.pages.write import write_report

__all__ = ["Comparison", "compare", "write_report"]
