"""The pages of a report: HTML, Markdown, plots."""

from umer1.evaluation.pages.write import write_report

__all__ = ["write_report"]
