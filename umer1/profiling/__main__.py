"""Run a workload and nothing else, for profilers from outside: `python -m umer1.profiling loss --device cuda ...`.

Takes the arguments of `umer1 profile`. The call to look at is the last one, after two that warm up; the CUDA profiler's
range begins with it.
"""

from __future__ import annotations

import argparse

import torch

from umer1.profiling.ranges import CALL, stage
from umer1.profiling.request import read
from umer1.profiling.trace import WARM_UP
from umer1.profiling.workload import build


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m umer1.profiling")
    parser.add_argument("target")
    for name, default in (("shape", ""), ("loss", "info_nce"), ("device", "cuda"), ("backend", "auto"), ("model", "tiny")):  # fmt: skip
        parser.add_argument(f"--{name}", default=default)
    arguments = vars(parser.parse_args())
    try:
        workload = build(read(arguments.pop("target"), **arguments))
    except ValueError as error:
        parser.error(str(error))
    for _ in range(WARM_UP):
        workload.run()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    with stage(CALL):
        workload.run()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
