"""Evaluation measured: the miniature benchmark, the bundled model, and the ways to embed all of it."""
