"""From a trace to rows: time, work and percent of the roofline of each operator in each stage."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from umer1.profiling import roofs as measured_roofs
from umer1.profiling.costs import Cost, aten_cost
from umer1.profiling.kernel_costs import operator_cost
from umer1.profiling.ranges import CALL
from umer1.profiling.request import Request
from umer1.profiling.roofs import Roofs
from umer1.profiling.trace import Operation, Trace, record
from umer1.profiling.workload import build

NOTHING = Cost(0.0, 0.0)
OUTSIDE = "other"  # the stage of what runs in no stage


@dataclass(slots=True)
class Row:
    """An operator (a kernel) in a stage; everything is of one call of the workload.

    Attributes:
        calls: of the operator, in a call of the workload.
        flop, bytes: the least it has to do; None without a model.
        floor: seconds of that work at the roofs; bound: which roof is the lower one, "" without a model.
        kernels: seconds by kernel name (CUDA).
        shapes: of the tensor arguments, the most frequent ones first.
    """

    operator: str
    stage: str
    calls: int
    seconds: float
    flop: float | None = None
    bytes: float | None = None
    floor: float | None = None
    bound: str = ""
    kernels: dict[str, float] = field(default_factory=dict)
    shapes: list[str] = field(default_factory=list)

    @property
    def percent_of_roofline(self) -> float | None:
        return 100 * self.floor / self.seconds if self.floor and self.seconds else None


@dataclass(slots=True)
class Profile:
    """A profiled workload. Seconds are of one call.

    Attributes:
        seconds: without the profiler; traced_seconds: with it; both of what counts (see Trace).
        stages: stage -> (seconds of its operators or kernels, seconds on the host), inner stages not in outer ones.
    """

    request: Request
    about: list[str]
    hardware: str
    versions: dict[str, str | None]
    seconds: float
    traced_seconds: float
    rows: list[Row]
    stages: dict[str, tuple[float, float]]
    roofs: Roofs

    @property
    def operator_seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    def share(self, row: Row) -> float:
        """Of the time of all operators."""
        return row.seconds / self.operator_seconds if self.operator_seconds else 0.0

    def without_model(self, least_share: float = 0.01) -> list[str]:
        """Operators that take a share of the time and have no bytes and FLOPs."""
        return [
            row.operator for row in self.rows if row.flop is None and self.share(row) >= least_share
        ]

    def to_dict(self) -> dict:
        return {
            "command": self.request.command(),
            "target": self.request.title,
            "shape": self.request.sizes,
            "device": self.request.device,
            "about": self.about,
            "hardware": self.hardware,
            "versions": self.versions,
            "ms": 1e3 * self.seconds,
            "traced_ms": 1e3 * self.traced_seconds,
            "operators_ms": 1e3 * self.operator_seconds,
            "roofs": {
                "gb_per_s": self.roofs.bandwidth / 1e9,
                "gflop_per_s": {k: v / 1e9 for k, v in self.roofs.flop_rate.items()},
                "how": self.roofs.how,
            },
            "stages": [
                {"stage": name, "operators_ms": 1e3 * own, "host_ms": 1e3 * host}
                for name, (own, host) in self.stages.items()
            ],
            "rows": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Row) -> dict:
        return {
            "operator": row.operator,
            "stage": row.stage,
            "calls": row.calls,
            "ms": 1e3 * row.seconds,
            "share": self.share(row),
            "flop": row.flop,
            "bytes": row.bytes,
            "gflop_per_s": _rate(row.flop, row.seconds),
            "gb_per_s": _rate(row.bytes, row.seconds),
            "percent_of_roofline": row.percent_of_roofline,
            "bound": row.bound,
            "kernels_ms": {name: 1e3 * seconds for name, seconds in row.kernels.items()},
            "shapes": row.shapes,
        }


def run(request: Request, chrome_trace: Path | None = None) -> Profile:
    """Build the workload, trace it, measure the roofs."""
    device = torch.device(request.device)
    workload = build(request)
    trace = record(workload, device, chrome_trace)
    costs = operation_costs(trace.operations)
    dtypes = {cost.dtype for cost in costs if cost is not None} - {""}
    roofs = measured_roofs.measure(device, dtypes | {str(workload.dtype).removeprefix("torch.")})
    rows = make_rows(trace, costs, roofs)
    return Profile(
        request,
        workload.about,
        _hardware(device),
        {"torch": torch.__version__, "python": platform.python_version()},
        trace.seconds,
        trace.traced_seconds,
        rows,
        _stages(trace, rows),
        roofs,
    )


def operation_costs(operations: list[Operation]) -> list[Cost | None]:
    """Of each operation; one of aten that calls others for its work leaves it to them, and has none.

    What it calls does its work where that is half of it at least: half of a product's FLOPs in
    products, half of the bytes of anything else.
    """
    costs = [each.cost or _cost(each) for each in operations]
    inner = [[0.0, 0.0] for _ in operations]  # FLOPs in products and bytes of what each one calls
    for number in reversed(range(len(operations))):
        operation, cost = operations[number], costs[number]
        flop, nbytes = inner[number]
        if cost is not None and operation.name.startswith("aten::"):
            left = 2 * flop >= cost.flop if cost.dtype else 2 * nbytes >= cost.bytes > 0
            if left:
                cost = costs[number] = NOTHING
        if operation.parent >= 0:
            own = cost or NOTHING
            inner[operation.parent][0] += flop + (own.flop if own.dtype else 0.0)
            inner[operation.parent][1] += nbytes + own.bytes
    return costs


def make_rows(trace: Trace, costs: list[Cost | None], roofs: Roofs) -> list[Row]:
    """Operations of one name in one stage together, the longest first."""
    grouped: dict[tuple[str, str], list[tuple[Operation, Cost | None]]] = {}
    for operation, cost in zip(trace.operations, costs, strict=True):
        grouped.setdefault((operation.name, operation.stage), []).append((operation, cost))
    rows = [_row(name, stage, group, roofs) for (name, stage), group in grouped.items()]
    return sorted((row for row in rows if row.seconds > 0), key=lambda row: -row.seconds)


def _cost(operation: Operation) -> Cost | None:
    if operation.name.startswith("umer1_kernels::"):
        return operator_cost(operation.name, operation.arguments)
    return aten_cost(operation.name, operation.arguments, operation.constants)


def _row(name: str, stage: str, group: list, roofs: Roofs) -> Row:
    row = Row(
        name,
        OUTSIDE if stage == CALL else stage,
        len(group),
        sum(operation.nanoseconds for operation, _ in group) / 1e9,
        shapes=_most_frequent(_shapes(operation) for operation, _ in group),
    )
    for operation, _ in group:
        for kernel, nanoseconds in operation.kernels.items():
            row.kernels[kernel] = row.kernels.get(kernel, 0.0) + nanoseconds / 1e9
    known = [cost for _, cost in group if cost is not None]
    if len(known) == len(group):
        row.flop = sum(cost.flop for cost in known)
        row.bytes = sum(cost.bytes for cost in known)
        floors = [roofs.floor(*cost) for cost in known]
        row.floor = sum(seconds for seconds, _ in floors)
        by_bound = {bound: sum(s for s, b in floors if b == bound) for _, bound in floors}
        row.bound = max(by_bound, key=by_bound.get) if row.floor else ""
    return row


def _shapes(operation: Operation) -> str:
    return " ".join(
        "x".join(map(str, each.shape))
        for each in operation.arguments
        if each is not None and each.shape  # fmt: skip
    )


def _most_frequent(values: Iterable[str], number: int = 3) -> list[str]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [value for value in sorted(counts, key=lambda each: -counts[each]) if value][:number]


def _stages(trace: Trace, rows: list[Row]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, host in trace.stages.items():
        name = OUTSIDE if name == CALL else name
        own = sum(row.seconds for row in rows if row.stage == name)
        found[name] = (own, host / 1e9)
    order: Callable[[str], float] = lambda name: -found[name][1]
    return {name: found[name] for name in sorted(found, key=order)}


def _rate(amount: float | None, seconds: float) -> float | None:
    return amount / seconds / 1e9 if amount is not None and seconds else None


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        lines = (line.partition(":") for line in cpu_info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
