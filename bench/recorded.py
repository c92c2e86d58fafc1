"""Which of our GPU kernels a result file of `make gpu` speaks for.

    python -m bench.recorded bench/results/nvidia-h200.json

prints what may stand in RECORDED_ON_GPU of umer1_kernels.backends, where "auto" takes it from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.native_kernels import GPU_BACKENDS
from bench.results import has_failed, load
from bench.runner import Row


def recorded(rows: list[Row]) -> set[tuple[str, str]]:
    """(backend, function) of what ran in a good row on a GPU, and in none that failed."""
    good, bad = set(), set()
    for row in rows:
        if row["device"] == "cuda":
            found = {(name, function) for function, ran in row.get("kernels", {}).items()
                     for name in ran if name in GPU_BACKENDS}  # fmt: skip
            (bad if has_failed(row) else good).update(found)
    return good - bad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a result file of make gpu")
    for pair in sorted(recorded(load(parser.parse_args().file))):
        print(pair)


if __name__ == "__main__":
    main()
