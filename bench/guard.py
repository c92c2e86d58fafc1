"""What must not get worse: `make guard`, or `python -m bench.guard`. Records in bench/guard.toml.

    python -m bench.guard                         # compare; exit status 1 and one line per thing that got worse
    python -m bench.guard --record                # measure everything anew and rewrite the file (on a quiet machine)
    python -m bench.guard --counts-only --record  # counts alone: those do not depend on the machine's load

Counts are exact: operators dispatched, tensors allocated, peak bytes, products multiplied, values read back to the host,
graph breaks, the plan that runs. More than recorded fails; less passes and asks to be recorded. Where the CPU has other
vector instructions than the record, other kernels run, so counts other than graph breaks and host reads are not compared.

Launches of the Triton kernels are counted under their interpreter (bench/launches.py), on any machine.

Time ratios (percent of the matrix products' own speed, speed over the best eager peer, of the engine over
transformers) fail below 75 percent of the recorded value, best of three tries, and are compared on a CPU of the recorded
name alone. Shapes are the small ones of `python -m bench --quick`, on two threads.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "kernels")]

from bench.case import OURS, Case, step  # noqa: E402
from bench.counts import count, graph_breaks  # noqa: E402
from bench.environment import cpu_features, environment  # noqa: E402
from bench.launches import counted  # noqa: E402
from bench.runner import measure  # noqa: E402
from bench.suites import cases  # noqa: E402

FILE = ROOT / "bench" / "guard.toml"
THREADS = 2
SHARE, TRIES = 0.75, 3
SECONDS = 1.5  # of timing per case and try
CPU = torch.device("cpu")
PEERS = ["eager", "transformers"]
EVERYWHERE = ("graph_breaks", "syncs")  # counts that no vector instruction changes
Record = dict[str, dict]


def main(argv: list[str] | None = None) -> int:
    """0 if nothing got worse (or everything was recorded), 1 if something did."""
    arguments = _parser().parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        recorded = read(FILE) if FILE.exists() else {}
        chosen = cases("cpu", quick=True, suites=arguments.suite)
        if arguments.record:
            write(FILE, _record(recorded, chosen, arguments.suite, arguments.counts_only))
            print(f"wrote {FILE.relative_to(ROOT)}")
            return 0
        launches, why_not = counted(arguments.suite)
        problems = []
        for case in chosen:
            found, notes = _compare(case, recorded, arguments.counts_only)
            if case.counted and case.compilable:
                more, same = _compare_launches(
                    recorded.get(_name(case), {}), launches.get(_name(case)), why_not
                )
                found, notes = found + more, notes + same
            print(f"{_name(case)}: {'; '.join(found) or 'ok'}", flush=True)
            print("".join(f"  note: {note}\n" for note in notes), end="")
            problems += found
        print(f"{len(problems)} got worse" if problems else "nothing got worse")
        return 1 if problems else 0
    finally:
        torch.set_num_threads(threads)


def counts_of(case: Case) -> dict[str, int | str]:
    """Counts of one step of ours."""
    problem = case.build(CPU)
    ours = case.chosen(CPU, [])[0].function
    counted = count(lambda: step(ours, problem))
    gemms = case.gemms(problem)
    found = {
        "plan": case.plan(problem),
        "syncs": counted.syncs,
        "dispatches": counted.dispatches,
        "allocations": counted.allocations,
        "peak_bytes": counted.peak_bytes,
    }
    if case.compilable:
        found["graph_breaks"] = graph_breaks(ours, **problem.inputs)
    if gemms is not None:
        unit = 2 * gemms.left.numel() * len(gemms.right)
        found["aten_products"] = round(counted.product_flop / unit, 3)
    return found


def ratios_of(case: Case) -> dict[str, float]:
    """Time ratios of ours, larger is better."""
    rows = measure(case, CPU, families=PEERS, seconds=SECONDS, quick=True)
    ours = next(row for row in rows if row["variant"] == OURS)
    if ours["status"] != "ok":
        raise RuntimeError(f"{_name(case)}: {ours['status']}")
    found = {"speed_over_best_peer": 1 / ours["time_to_best_peer"]}
    # microseconds of reading beside a copy's say nothing
    if "percent_of_floor" in ours and type(case).traffic is Case.traffic:
        found["percent_of_floor"] = ours["percent_of_floor"]
    return {name: round(value, 3) for name, value in found.items()}


def worse_counts(recorded: dict, found: dict, same_cpu: bool) -> tuple[list[str], list[str]]:
    """What got worse, and notes; the plan must be the same, the others must not be more."""
    problems, notes = [], []
    for name, now in found.items():
        if not same_cpu and name not in EVERYWHERE:
            continue
        if name not in recorded:
            problems.append(f"{name} is {now}, never recorded")
            continue
        before = recorded[name]
        if name == "plan" and now != before or name != "plan" and now > before:
            problems.append(f"{name} is {now!r}, was {before!r}")
        elif now != before:
            notes.append(f"{name} is {now}, was {before}: better, record it")
    return problems, notes


def worse_ratios(recorded: dict, measured) -> list[str]:
    """What stayed below 75 percent of the record in three tries. `measured()` -> {name: ratio}."""
    best: dict[str, float] = {}
    for _ in range(TRIES):
        for name, value in measured().items():
            best[name] = max(value, best.get(name, 0.0))
        low = [name for name, before in recorded.items() if best.get(name, 0.0) < SHARE * before]
        if not low:
            return []
    return [f"{name} is {best.get(name)}, was {recorded[name]}" for name in low]


def read(path: Path) -> Record:
    return tomllib.loads(path.read_text())


def write(path: Path, record: Record) -> None:
    """One table per case and kind; strings, whole numbers and decimals only."""
    lines = [
        "# What `make guard` compares with. Written by `python -m bench.guard --record`; not by hand."
    ]
    for name, tables in record.items():
        for kind, values in tables.items():
            lines.append(f'\n["{name}".{kind}]')
            lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def _toml(value: str | int | float) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.guard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--record", action="store_true", help="rewrite bench/guard.toml")
    parser.add_argument("--counts-only", action="store_true", help="leave the time ratios alone")
    parser.add_argument("--suite", nargs="+", metavar="NAME", help="only these suites")
    return parser


def _record(
    recorded: Record, chosen: list[Case], suites: list[str] | None, counts_only: bool
) -> Record:
    new = dict(recorded)
    launches, why_not = counted(suites)
    if why_not:
        print(f"launches are not recorded: {why_not}", file=sys.stderr)
    for case in chosen:
        tables = dict(new.get(_name(case), {}))
        if case.counted:
            tables["counts"] = {"recorded_on": cpu_features(), **counts_of(case)}
        if _name(case) in launches:
            tables["launches"] = launches[_name(case)]
        if not counts_only:
            where = {"recorded_on": environment()["cpu"]}
            tries = [ratios_of(case) for _ in range(TRIES)]
            tables["times"] = where | {
                # what every try reached: the smallest cases take microseconds
                name: min(found[name] for found in tries)
                for name in tries[0]
            }
        new[_name(case)] = tables
        print(f"{_name(case)}: {tables}", flush=True)
    return new


def _compare(case: Case, recorded: Record, counts_only: bool) -> tuple[list[str], list[str]]:
    tables = recorded.get(_name(case))
    if tables is None:
        return ["never recorded: python -m bench.guard --record"], []
    problems, notes = _compare_counts(case, dict(tables["counts"])) if case.counted else ([], [])
    if not counts_only:
        times = dict(tables.get("times", {}))
        where, here = times.pop("recorded_on", None), environment()["cpu"]
        if not times:
            notes.append("time ratios were never recorded")
        elif where != here:
            notes.append(f"recorded on {where}, here {here}: time ratios are not compared")
        else:
            problems += worse_ratios(times, lambda: ratios_of(case))
    return problems, notes


def _compare_counts(case: Case, before: dict) -> tuple[list[str], list[str]]:
    where = before.pop("recorded_on")
    problems, notes = worse_counts(before, counts_of(case), where == cpu_features())
    if where != cpu_features():
        notes.append(f"recorded with {where}, here {cpu_features()}: most counts are not compared")
    return problems, notes


def _compare_launches(
    tables: dict, found: dict | None, why_not: str
) -> tuple[list[str], list[str]]:
    """Of one case; without triton there is nothing to run, which is said and is no failure."""
    recorded = tables.get("launches")
    if recorded is None:
        return [], ["launches were never recorded"]
    if found is None:
        lost = "No module named 'triton'" not in why_not
        message = f"launches could not be counted: {why_not}"
        return ([message], []) if lost else ([], [message])
    return worse_counts(recorded, found, same_cpu=True)


def _name(case: Case) -> str:
    return f"{case.suite} {case.name}"


if __name__ == "__main__":
    sys.exit(main())
