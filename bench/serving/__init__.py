"""A load test of the server: `python -m bench.serving_load`."""
