"""Measurements: `python -m bench.gpu` (one GPU machine, one JSON), `python -m bench.tiny_model` (the bundled model)."""
