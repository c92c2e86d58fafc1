"""Fused losses, rewards and gathers for embedding models: torch alone is enough to import this package."""

from umer1_kernels._version import __version__

__all__ = ["__version__"]
