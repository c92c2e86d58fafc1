"""Exact search over stored vectors."""

from .index import Index

__all__ = ["Index"]
