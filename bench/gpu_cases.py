"""The cases of the GPU suite: in order of importance, and in as many processes as it takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.case import OURS, Case
from bench.claims import CLAIMS
from bench.results import Results, has_failed, is_good, load
from bench.runner import NOT_REACHED, Row, failed_row
from bench.steps import Deadline, run

SECONDS_PER_CASE = 3  # of timing
LIMIT_PER_CASE = 150  # compilers included; a hang ends the process


@dataclass(slots=True)
class Measured:
    """`done`: (suite, case) of what was measured now, well or badly; the others were not reached."""

    asked: int
    done: set[tuple[str, str]] = field(default_factory=set)


def in_turn(chosen: list[Case], device: str, rows: list[Row]) -> list[Case]:
    """Cases without rows first, then those without good ones: each run goes on where the last one ended.

    Among them cases with an aim on this device come first, in the order of `bench.claims`.
    """
    aims = [claim for claim in CLAIMS if claim.device == device]
    order = list(dict.fromkeys((claim.suite, claim.case) for claim in aims))
    places = {key: place for place, key in enumerate(order)}
    had: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["device"] == device and row["status"] != NOT_REACHED:
            had.setdefault(_key(row), []).append(row)

    def turn(case: Case) -> tuple[int, int]:
        key = (case.suite, case.name)
        return (key in had) + is_good(had.get(key, [])), places.get(key, len(places))

    return sorted(chosen, key=turn)


def measure(
    chosen: list[Case], device: str, deadline: Deadline, path: Path, options: tuple[str, ...] = ()
) -> Measured:
    """Measure these cases by `python -m bench`, which writes each into the file when it is done.

    A case that takes its process down is a failed row, or keeps those of ours that were measured before, and those
    after it get a new process. A case that is not reached keeps the rows it had; without any it gets one that says so.
    """
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    found, left = Measured(len(chosen)), list(chosen)
    while left:
        seconds = deadline.left()
        if seconds > 0:
            why = _bench(left, device, seconds, path, options)
            rows = load(path) if path.exists() else []
            now = [row for row in rows if row.get("measured_at", "") >= began]
            found.done |= {_key(row) for row in now if not row.get("partial")}
            left = [case for case in left if (case.suite, case.name) not in found.done]
        if left and deadline.left() <= 0:
            had = {_key(row) for row in (load(path) if path.exists() else [])}
            missing = [case for case in left if (case.suite, case.name) not in had]
            _add(path, missing, device, NOT_REACHED)
            return found
        if left:  # the first one that has no rows, or has partial ones, took the process down
            lost = left.pop(0)
            kept = [row for row in now if _key(row) == (lost.suite, lost.name)]
            if kept:
                _keep(path, kept, why)
            else:
                _add(path, [lost], device, why)
            found.done.add((lost.suite, lost.name))
    return found


def failures(rows: list[Row], measured: Measured) -> list[str]:
    """The measured cases of which a row of ours is not good."""
    bad = [
        f"{row['suite']} {row['case']}"
        for row in rows
        if row["family"] == OURS and has_failed(row) and _key(row) in measured.done
    ]
    return list(dict.fromkeys(bad))


def _bench(
    left: list[Case], device: str, seconds: float, path: Path, options: tuple[str, ...]
) -> str:
    """Run it, showing what it prints; why it ended before its time."""
    limit = min(LIMIT_PER_CASE, seconds)
    command = [sys.executable, "-m", "bench", "--device", device, "--json", str(path)]
    command += ["--seconds", str(SECONDS_PER_CASE), "--limit", str(limit)]
    # in the order they are named
    command += ["--case", *(case.name for case in left), *options]
    ended = run(command, seconds, show=True)
    if ended.status is None:
        return "failed: out of time"
    return f"failed: its process ended with status {ended.status}: {ended.last_line()[:300]}"


def _add(path: Path, missing: list[Case], device: str, why: str) -> None:
    results = Results(path)
    for case in missing:
        print(f"{case.suite}  {case.name}: {why}", file=sys.stderr)
        results.add([failed_row(case, torch.device(device), why)])


def _keep(path: Path, rows: list[Row], why: str) -> None:
    """Partial rows; those of peers say why they are."""
    print(f"{rows[0]['suite']}  {rows[0]['case']}: {why}", file=sys.stderr)
    reached = {"status": why}
    Results(path).add([row | (reached if row["status"] == NOT_REACHED else {}) for row in rows])


def _key(row: Row) -> tuple[str, str]:
    return row["suite"], row["case"]
