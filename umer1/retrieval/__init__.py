"""Exact search over stored vectors."""

from umer1.retrieval.index import Index

__all__ = ["Index"]
