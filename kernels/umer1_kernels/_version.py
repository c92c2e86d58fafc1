"""The version of umer1 and umer1_kernels; pyproject.toml reads it from here."""

__version__ = "0.1.0"
