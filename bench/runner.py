"""One case, measured: correctness first, then time with all variants interleaved, then memory. One row per variant."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch

from bench import memory
from bench.case import OURS, Case, Problem, Variant, errors, step
from bench.counts import count
from bench.environment import environment
from bench.native_kernels import native_kernels
from bench.peaks import utilization
from bench.timing import Run, copy_run, floor_run, interleave, paired_ratio, spread

FLOOR = "floor"
NOT_REACHED = "not reached in time"
SECONDS_WITHOUT_PEERS = 0.5
Row = dict


class DeviceLost(RuntimeError):
    """The CUDA context is broken: nothing more can be measured in this process."""


def measure(
    case: Case,
    device: torch.device,
    *,
    families: list[str] | None = None,
    seconds: float = 60.0,
    quick: bool = False,
    keep: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Rows of every chosen variant; one that fails has a `status` that says why, and no time.

    Args:
        families: which peers, None for all.
        seconds: spent on timing, beyond the three rounds that are always run.
        quick: a small case, whose memory is counted by torch's allocator (a process is too coarse for it).
        keep: gets `partial` rows, ours after a few rounds, before any peer has run: what is left of a case if its
            process ends in a peer.
    """
    torch._dynamo.reset()
    with native_kernels() as ran:
        variants = case.chosen(device, families)
        problem = case.build(device)
        expected = case.truth(problem)
        common = {**_describe(case, device), **provenance(device)}
        rows = {variant.name: {**common, **_about(variant)} for variant in variants}
        ours = [variant for variant in variants if variant.family == OURS]
        peers = [variant for variant in variants if variant.family != OURS]
        good = []
        for variant in ours:
            ran.clear()
            good += _checked(case, [variant], problem, expected, device, rows)
            rows[variant.name]["kernels"] = {name: sorted(ran[name]) for name in sorted(ran)}
        rows[OURS]["plan"] = _plan(case, problem, rows[OURS]["kernels"])
        if keep is not None and good and peers:
            keep(_without_peers(case, good, peers, problem, device, rows))
        good += _checked(case, peers, problem, expected, device, rows)
        good = _fastest_of_sweeps([each for each in variants if each in good], rows)
        if good and case.timed:
            _time(case, good, problem, device, seconds, rows)
        for variant in good if case.weighed else ():
            row = rows[variant.name]
            peak = _peak(case, variant, problem, device, quick)
            row["peak_bytes"], row["peak_method"] = peak
    unit = rows.get(case.baseline, {}).get("peak_bytes")
    for row in rows.values():
        if unit and row.get("peak_bytes") is not None:
            row["peak_to_baseline"], row["baseline"] = row["peak_bytes"] / unit, case.baseline
    return list(rows.values())


def failed_row(case: Case, device: torch.device, why: str) -> Row:
    """The one row of a case that could not be measured at all."""
    about = {"variant": OURS, "family": OURS, "note": "", "plan": "not known", "status": why}
    return {**_describe(case, device), **provenance(device), **about}


def in_one_line(error: BaseException) -> str:
    """ "failed: TypeError: its first line"."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"failed: {type(error).__name__}: {line[:300]}"


def require_alive(device: torch.device) -> None:
    """Raise DeviceLost if the CUDA context no longer works."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise DeviceLost(str(error).splitlines()[0]) from error


def provenance(device: torch.device) -> Row:
    """What a row was measured on, in a few words; the result file has the rest."""
    found = environment()
    return {
        "hardware": found["gpu"] if device.type == "cuda" else found["cpu"],
        "torch": found["packages"]["torch"],
        "triton": found["packages"]["triton"],
        "python": platform.python_version(),
        "threads": found["threads"],
        "commit": (found["commit"] or "unknown")[:12] + "+" * found["uncommitted_changes"],
        "measured_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def _describe(case: Case, device: torch.device) -> Row:
    dtype = str(case.dtype).removeprefix("torch.")
    return {
        "suite": case.suite,
        "case": case.name,
        "sizes": case.sizes(),
        "dtype": dtype,
        "device": device.type,
    }


def _about(variant: Variant) -> Row:
    return {"variant": variant.name, "family": variant.family, "note": variant.note}


def _checked(
    case: Case,
    variants: list[Variant],
    problem: Problem,
    expected,
    device: torch.device,
    rows: dict[str, Row],
) -> list[Variant]:
    """Those of them that are good; each row gets its status."""
    good = []
    for variant in variants:
        row = rows[variant.name]
        row["status"] = variant.unavailable or _attempt(
            device, lambda v=variant, r=row: _check(case, v, problem, expected, r)
        )
        if row["status"] == "ok":
            good.append(variant)
    return good


def _plan(case: Case, problem: Problem, kernels: dict[str, list[str]]) -> str:
    """The case's words; of what is made of several kernels also which of them ran on what."""
    try:
        plan = case.plan(problem)
    except Exception as error:
        plan = f"not known: {error}"
    if len(kernels) < 2:
        return plan
    return "; ".join([plan, *(f"{name} {'/'.join(ran)}" for name, ran in kernels.items())])


def _without_peers(
    case: Case,
    good: list[Variant],
    peers: list[Variant],
    problem: Problem,
    device: torch.device,
    rows: dict[str, Row],
) -> list[Row]:
    """Copies of the rows with a few rounds of ours."""
    early = {name: dict(row, partial=True) for name, row in rows.items()}
    for peer in peers:
        early[peer.name]["status"] = peer.unavailable or NOT_REACHED
    if case.timed:
        _time(case, good, problem, device, SECONDS_WITHOUT_PEERS, early)
    return list(early.values())


def _check(case: Case, variant: Variant, problem: Problem, expected, row: Row) -> str:
    """Run once; errors against float64 go into the row. "ok", or why it is not timed."""
    began = time.perf_counter()
    result = step(variant.function, problem)
    row["first_run_ms"] = (time.perf_counter() - began) * 1e3
    row["result_bytes"] = memory.result_bytes(result)
    row["input_bytes"] = sum(
        tensor.numel() * tensor.element_size()
        for tensor in problem.inputs.values()
        if isinstance(tensor, torch.Tensor)
    )
    row["errors"] = errors(result, expected) if variant.checked else {}
    allowed = case.tolerance if variant.family == OURS else case.peer_tolerance
    for name, error in row["errors"].items():
        if not error <= allowed:
            return f"wrong: {name} is {error:.1e} off float64, {allowed:.0e} allowed; not timed"
    return "ok"


def _fastest_of_sweeps(variants: list[Variant], rows: dict[str, Row]) -> list[Variant]:
    """Without the settings that were slower than another one of their sweep; their rows say by how much."""
    best: dict[str, Variant] = {}
    for variant in variants:
        if variant.sweep:
            others = [best.get(variant.sweep, variant), variant]
            best[variant.sweep] = min(others, key=lambda each: rows[each.name]["first_run_ms"])
    for variant in variants:
        fastest = best.get(variant.sweep, variant)
        if fastest is not variant:
            took, least = (rows[each.name]["first_run_ms"] for each in (variant, fastest))
            rows[variant.name]["status"] = (
                f"{took / least:.2f} x the time of {fastest.name} in its first run; not timed further"
            )
    return [variant for variant in variants if best.get(variant.sweep, variant) is variant]


def _attempt(device: torch.device, check: Callable[[], str]) -> str:
    """The check's verdict, or the error in one line; a peer that cannot run must not stop the others."""
    try:
        return check()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "failed: out of memory"
    except Exception as error:
        require_alive(device)
        return in_one_line(error)


def _time(
    case: Case,
    variants: list[Variant],
    problem: Problem,
    device: torch.device,
    seconds: float,
    rows: dict[str, Row],
) -> None:
    runs = {
        # the check has run each once
        variant.name: Run(
            lambda function=variant.function: step(function, problem), 1 / variant.calls, warm=True
        )
        for variant in variants
    }
    gemms, traffic, flop = case.gemms(problem), case.traffic(problem), case.flop(problem)
    if gemms is not None:
        runs[FLOOR] = floor_run(gemms)
    elif traffic is not None:
        runs[FLOOR] = copy_run(traffic)
    samples = interleave(runs, device, seconds)
    peers = {v.name: spread(samples[v.name]).median for v in variants if v.family != OURS}
    best = min(peers, key=peers.get) if peers else None
    for variant in variants:
        mine, row = samples[variant.name], rows[variant.name]
        median, p20, p80 = spread(mine)
        row |= {"median_ms": median, "p20_ms": p20, "p80_ms": p80, "rounds": len(mine)}
        if FLOOR in runs:
            row["floor"] = (gemms or traffic).describe()
            row["floor_ms"] = spread(samples[FLOOR]).median
            row["percent_of_floor"] = 100 * paired_ratio(samples[FLOOR], mine)
        if flop is not None:
            row["flop"] = flop
            row["percent_of_peak"] = utilization(flop, median / 1e3, row["hardware"])
        if best is not None:
            row["best_peer"], row["time_to_best_peer"] = best, paired_ratio(mine, samples[best])
        if variant.family == OURS:
            row["speedup"] = {name: paired_ratio(samples[name], mine) for name in peers}


def _peak(
    case: Case, variant: Variant, problem: Problem, device: torch.device, quick: bool
) -> memory.Peak:
    if device.type == "cuda":
        return memory.on_cuda(variant, problem)
    if not quick:
        return memory.in_own_process(case, variant, quick=quick)
    held: dict[str, int] = {}

    def call() -> None:
        held["bytes"] = memory.result_bytes(step(variant.function, problem))

    peak = count(call).peak_bytes - held["bytes"]
    return memory.Peak(max(0, peak), "torch's allocator")
