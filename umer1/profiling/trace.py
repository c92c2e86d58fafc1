"""What ran during a workload: every operator (CPU) or kernel (CUDA) with its time, arguments and stage.

From the events that torch.profiler records. On a CPU an operator's time is its own, without that of the operators it
calls; on CUDA it is that of the kernels it launches itself. Kernels of Triton go by their own name.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from umer1.profiling.costs import Argument, Cost, argument
from umer1.profiling.launches import Launches
from umer1.profiling.ranges import CALL, PREFIX, stage
from umer1.profiling.timeline import Range, Stages, fastest_call
from umer1.profiling.workload import Workload

WARM_UP, TIMED, TRACED = 2, 5, 5
LONGEST = 20.0  # seconds beyond which no further call is timed, or traced
# events of the CUDA runtime and driver: cudaLaunchKernel, cuLaunchKernelEx
RUNTIME = re.compile(r"cu(da)?[A-Z]")


@dataclass(slots=True)
class Operation:
    """One operator of one call, or one Triton kernel.

    Attributes:
        nanoseconds: its own; on CUDA those of `kernels`.
        parent: number of the operator that called it, -1: none.
        cost: known from its launch; None: to be found from the arguments.
    """

    name: str
    stage: str
    nanoseconds: int
    arguments: tuple[Argument | None, ...] = ()
    constants: tuple = ()
    parent: int = -1
    kernels: dict[str, int] = field(default_factory=dict)
    cost: Cost | None = None


@dataclass(slots=True)
class Trace:
    """The fastest of the traced calls of a workload: what else the machine does disturbs it least.

    Attributes:
        stages: nanoseconds on the host in each stage, without stages inside it.
        seconds: of the fastest call without the profiler. Where only its end counts: times the
            share of that end in the traced call.
        traced_seconds: of what counts of the traced call.
    """

    operations: list[Operation]
    stages: dict[str, int]
    seconds: float
    traced_seconds: float


def record(workload: Workload, device: torch.device, chrome_trace: Path | None = None) -> Trace:
    """Warm up, time without the profiler, then trace."""
    for _ in range(WARM_UP):
        workload.run()
    seconds = _timed(workload, device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it tells stderr when it starts and stops
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with (
        Launches(device) as launches,
        profile(activities=activities, record_shapes=True, acc_events=True) as profiler,
    ):
        began = time.monotonic()
        for number in range(TRACED):
            if number and time.monotonic() - began > LONGEST:
                break
            with stage(CALL):
                workload.run()
                _synchronize(device)
    if chrome_trace is not None:
        chrome_trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(chrome_trace))
    events = profiler.profiler.kineto_results.events()
    ranges, share = fastest_call(events, workload.begins)
    if device.type == "cuda":
        operations = _by_kernel(events, ranges, launches, workload.bytes_of_lists)
        if not operations:
            raise ValueError(
                "--device cuda: torch's profiler recorded no kernel; may this user read the GPU's "
                "counters? (KINETO_LOG_LEVEL=0 says more)"
            )
    else:
        operations = _by_operator(events, ranges, workload.bytes_of_lists)
    stages: dict[str, int] = {}
    for each in ranges:
        stages[each.name] = stages.get(each.name, 0) + each.own
    return Trace(operations, stages, share * seconds, (ranges[0].end - ranges[0].begin) / 1e9)


def _timed(workload: Workload, device: torch.device) -> float:
    samples: list[float] = []
    _synchronize(device)
    while len(samples) < TIMED and sum(samples) < LONGEST:
        began = time.perf_counter()
        workload.run()
        _synchronize(device)
        samples.append(time.perf_counter() - began)
    return min(samples)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_operator(event) -> bool:
    name = event.name()
    return (
        event.device_type() == DeviceType.CPU
        and event.linked_correlation_id() == 0
        and "::" in name
        and not name.startswith(("autograd::", "torch::autograd::", "profiler::", PREFIX))
        and not RUNTIME.match(name)
    )


def _by_operator(events, ranges: list[Range], bytes_of_lists: int) -> list[Operation]:
    chosen = sorted(
        filter(_is_operator, events), key=lambda event: (event.start_ns(), -event.end_ns())
    )
    stages, operations = Stages(ranges), []
    opened: dict[int, list[tuple[int, int]]] = {}  # thread -> (end, number) of calls under way
    for event in chosen:
        name = stages.at(event.start_ns())
        if name is None:
            continue
        under_way = opened.setdefault(event.start_thread_id(), [])
        while under_way and under_way[-1][0] <= event.start_ns():
            under_way.pop()
        parent = under_way[-1][1] if under_way else -1
        if parent >= 0:
            operations[parent].nanoseconds -= event.duration_ns()
        under_way.append((event.end_ns(), len(operations)))
        operations.append(
            Operation(
                event.name(), name, event.duration_ns(), *_inputs(event, bytes_of_lists), parent
            )
        )
    return operations


def _by_kernel(events, ranges, launches: Launches, bytes_of_lists: int) -> list[Operation]:
    """Operators that launched kernels, with their kernels' time; Triton kernels one by one."""
    kernels = sorted(
        (
            event
            for event in events
            if event.device_type() == DeviceType.CUDA and not event.is_user_annotation()
        ),
        key=lambda event: event.start_ns(),
    )
    hosts = {}
    for event in events:
        if event.device_type() != DeviceType.CPU or event.linked_correlation_id() != 0:
            continue
        # numbers of the CUDA runtime's own events may be those of operators
        if not RUNTIME.match(event.name()) and ("::" in event.name() or event.correlation_id() not in hosts):  # fmt: skip
            hosts[event.correlation_id()] = event
    by_host: dict[int, list] = {}
    costs = launches.costs([event.name() for event in kernels])
    own: dict[int, list[tuple[str, int, Cost | None]]] = {}
    for event, cost in zip(kernels, costs, strict=True):
        host = event.linked_correlation_id()
        if event.name() in launches.names:
            own.setdefault(host, []).append((event.name(), event.duration_ns(), cost))
        else:
            by_host.setdefault(host, []).append(event)
    stages, operations = Stages(ranges), []
    launched = [number for number in by_host.keys() | own.keys() if number in hosts]
    for number in sorted(launched, key=lambda number: hosts[number].start_ns()):
        host = hosts[number]
        name = stages.at(host.start_ns())
        if name is None:
            continue
        for kernel, nanoseconds, cost in own.get(number, ()):
            times = {kernel: nanoseconds}
            operations.append(Operation(kernel, name, nanoseconds, kernels=times, cost=cost))
        if number in by_host:
            times: dict[str, int] = {}
            for event in by_host[number]:
                times[event.name()] = times.get(event.name(), 0) + event.duration_ns()
            inputs = _inputs(host, bytes_of_lists)
            operations.append(
                Operation(host.name(), name, sum(times.values()), *inputs, kernels=times)
            )
    return operations


def _inputs(event, bytes_of_lists: int) -> tuple[tuple[Argument | None, ...], tuple]:
    """Tensor arguments (None for other ones) and the values of the others."""
    # torch 2.11 has no shapes of tensors in lists
    shapes = getattr(event, "structured_input_shapes", event.shapes)()
    dtypes, constants = event.dtypes(), event.concrete_inputs()
    return (
        tuple(argument(*each, bytes_of_lists) for each in zip(shapes, dtypes)),
        tuple(constants),
    )
