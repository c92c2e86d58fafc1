"""The compiled CPU backend. Importing it needs the extension."""

from umer1_kernels.backends.cpu import hidden_gather, reward

__all__ = ["hidden_gather", "reward"]
