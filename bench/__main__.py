"""The losses of umer1_kernels and the engine beside their peers: time, percent of the floor, peak memory and error in one row."""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "kernels")]  # from a checkout, without installing

from bench.results import Results, table, write_liger_csv  # noqa: E402
from bench.runner import DeviceLost, Row, failed_row, in_one_line, measure, require_alive  # noqa: E402
from bench.suites import MODULES, cases  # noqa: E402

FAMILIES = (
    "eager", "compile", "torch", "loop", "liger", "sentence-transformers", "transformers", "umer1-hf",
)  # fmt: skip
EPILOG = """\
examples
  python -m bench --quick                              small shapes of every suite, a minute or two
  python -m bench --suite info_nce --list              what would run, and which peers are missing here
  python -m bench --suite info_nce linear_cross_entropy --json bench/results/cpu.json
  python -m bench --device cuda --json bench/results/gpu.json --plot plots
  python -m bench --case symmetric-4096-bf16 --peers eager --seconds 120
  python -m bench report                               bench/results/*.json -> tables and plots of the docs and the README

what a row says
  ms, p20, p80   one step: forward, and the gradients where the case has them; all variants in turn, round after round
  % floor        time of the matrix products nobody can avoid (3: logits and two gradients; 4: logits made twice;
                 1: forward alone), timed in the same rounds with aten::mm, on the rows that count alone; for decoding,
                 of reading the keys and values (a shared prefix once) or the logits once, at the speed of a copy
  / best peer    our time over that of the fastest peer: below 1 is faster
  MiB            peak memory beyond the inputs and the returned gradients (docs/performance.md says how it is measured)
  / baseline     that peak over the eager form's
  worst error    relative Frobenius error against float64 of the worst gradient or output; a variant of ours that is
                 further off than its contract is not timed at all
Peers that are not installed are listed with the reason: pip install 'umer1[peers]'. Threads: OMP_NUM_THREADS.
"""


def main(argv: list[str] | None = None) -> int:
    """0 if everything chosen was measured, 1 if a variant of ours failed, 3 if the device was lost."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["report"]:
        from bench import report

        return report.main(argv[1:])
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    families = None if arguments.peers is None else [p for p in arguments.peers if p != "none"]
    try:
        chosen = cases(
            arguments.device, quick=arguments.quick, suites=arguments.suite, names=arguments.case
        )
        results = Results(arguments.json)
    except ValueError as error:
        parser.error(str(error))
    device = torch.device(arguments.device)
    if arguments.list:
        _list(chosen, device, families)
        return 0
    failed = 0
    for case in chosen:
        began = time.monotonic()
        print(f"{case.suite}  {case.name}", flush=True)
        if arguments.limit:
            faulthandler.dump_traceback_later(arguments.limit, exit=True)
        try:
            rows = _measured(case, device, families, arguments, results)
        except DeviceLost as error:
            print(f"the device is lost: {error}", file=sys.stderr)
            return 3
        faulthandler.cancel_dump_traceback_later()
        results.add(rows)
        failed += rows[0]["status"] != "ok"
        print(f"{rows[0]['plan']}\n{table(rows)}\n{time.monotonic() - began:.0f} s\n", flush=True)
    if arguments.csv:
        write_liger_csv(results.new, arguments.csv)
    if arguments.plot:
        from bench.plots import plot

        for path in plot(results.rows, arguments.plot):
            print(f"wrote {path}")
    return 1 if failed else 0


def _measured(case, device, families, arguments, results) -> list[Row]:
    """The case's rows; a case that cannot be measured at all must not stop the next one."""
    try:
        return measure(
            case,
            device,
            families=families,
            seconds=arguments.seconds,
            quick=arguments.quick,
            keep=results.add_partial if arguments.limit else None,
        )
    except DeviceLost:
        raise
    except Exception as error:
        traceback.print_exc()
        require_alive(device)
        return [failed_row(case, device, in_one_line(error))]
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--suite", nargs="+", metavar="NAME", help=f"of {', '.join(MODULES)}; all without it"
    )
    parser.add_argument(
        "--case", nargs="+", metavar="NAME", help="of those suites; --list names them"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=(*FAMILIES, "none"),
        metavar="FAMILY",
        help=f"of {', '.join(FAMILIES)}, or none; all without it",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small shapes: for a look and for tests"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=120.0,
        help="spent on timing each case, beyond the first rounds (default 120)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="results; cases measured again replace their rows"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="this run in Liger's CSV columns")
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="PNGs: scaling, percent of the floor"
    )
    parser.add_argument(
        "--limit", type=float, metavar="S", help="end the process if one case takes longer"
    )
    parser.add_argument("--list", action="store_true", help="name what would run, and stop")
    return parser


def _list(chosen, device, families) -> None:
    for case in chosen:
        sizes = "  ".join(f"{name} {value}" for name, value in case.sizes().items())
        print(f"{case.suite}  {case.name}  ({sizes})")
        for variant in case.chosen(device, families):
            print(f"  {variant.name:28}{variant.unavailable or variant.note}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
