"""Measurements. `python -m bench --help`: the kernel library beside its peers; `python -m bench.guard`: what must not get
worse; `python -m bench report`: tables and plots of the docs; `python -m bench.gpu`: one GPU machine, one JSON;
`python -m bench.tiny_model`: the bundled model."""

import os

# torch 2.15's profiler announces every start and stop on stderr otherwise; read when torch loads
os.environ.setdefault("KINETO_LOG_LEVEL", "9")
