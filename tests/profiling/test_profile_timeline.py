"""What becomes of the profiler's events, on events made by hand: own times, stages, kernels and their operators."""

from torch.autograd import DeviceType

from umer1.profiling.costs import Argument, Cost
from umer1.profiling.ranges import CALL, PREFIX
from umer1.profiling.timeline import Stages, fastest_call
from umer1.profiling.trace import _by_kernel, _by_operator


class Event:
    """As torch's kineto events answer."""

    def __init__(self, name, begin, end, *, number=0, linked=0, cuda=False, shapes=(), thread=1):
        self._name, self._begin, self._end, self._cuda = name, begin, end, cuda
        self._number, self._linked, self._shapes, self._thread = number, linked, shapes, thread

    def name(self):
        return self._name

    def start_ns(self):
        return self._begin

    def end_ns(self):
        return self._end

    def duration_ns(self):
        return self._end - self._begin

    def device_type(self):
        return DeviceType.CUDA if self._cuda else DeviceType.CPU

    def correlation_id(self):
        return self._number

    def linked_correlation_id(self):
        return self._linked

    def start_thread_id(self):
        return self._thread

    def is_user_annotation(self):
        return self._name.startswith(PREFIX)

    def shapes(self):
        return list(self._shapes)

    def dtypes(self):
        return ["float"] * len(self._shapes)

    def concrete_inputs(self):
        return [None] * len(self._shapes)


def stage(name, begin, end):
    return Event(PREFIX + name, begin, end)


SLOW = [stage(CALL, 0, 500), stage("forward", 0, 400)]
FAST = [
    stage(CALL, 1000, 1300),
    stage("forward", 1010, 1200),
    stage("vision", 1050, 1100),
    stage("decode", 1210, 1290),
]


def test_stages_leave_out_what_is_inside_them():
    ranges, share = fastest_call(SLOW + FAST, "")
    assert [(each.name, each.own) for each in ranges] == [
        (CALL, 300 - 190 - 80), ("forward", 190 - 50), ("vision", 50), ("decode", 80)
    ]  # fmt: skip
    assert share == 1.0


def test_a_call_is_cut_to_what_counts():
    ranges, share = fastest_call(SLOW + FAST, "decode")
    assert [(each.name, each.begin, each.own) for each in ranges] == [
        (CALL, 1210, 10), ("decode", 1210, 80)
    ]  # fmt: skip
    assert share == 90 / 300


def test_the_innermost_stage_at_a_time():
    stages = Stages(fastest_call(FAST, "")[0])
    times = (900, 1005, 1020, 1060, 1150, 1250, 1299, 1300)
    assert [stages.at(time) for time in times] == [
        None, CALL, "forward", "vision", "forward", "decode", CALL, None
    ]  # fmt: skip


def test_operators_keep_their_own_time():
    events = [
        *FAST,
        Event("aten::matmul", 1020, 1080, shapes=[[2, 3], [3, 4]]),
        Event("aten::mm", 1030, 1070, shapes=[[2, 3], [3, 4]]),
        Event("aten::resolve_conj", 1035, 1040),
        Event("aten::exp", 1020, 1090, thread=2),  # of another thread: nobody's child
        Event("autograd::engine::evaluate_function: MmBackward0", 1110, 1190),
        Event("aten::sum", 1120, 1130),
        Event("aten::sum", 2000, 2100),  # of no call
    ]
    ranges, _ = fastest_call(events, "")
    found = {each.name: each for each in _by_operator(events, ranges, 4)}
    times = {name: each.nanoseconds for name, each in found.items()}
    assert times == {
        "aten::matmul": 20, "aten::mm": 35, "aten::resolve_conj": 5, "aten::exp": 70, "aten::sum": 10
    }  # fmt: skip
    assert found["aten::matmul"].stage == found["aten::exp"].stage == "forward"
    assert found["aten::mm"].arguments[1] == Argument((3, 4), 4, "float32")
    assert found["aten::sum"].parent == -1


class Launched:
    """A launch of `kernel_of_ours` in each of two calls."""

    names = {"kernel_of_ours"}

    def costs(self, names):
        assert names.count("kernel_of_ours") == 2
        return [Cost(7, 7) if name in self.names else None for name in names]


def test_kernels_belong_to_the_operators_that_launched_them():
    events = [
        *SLOW,
        *FAST,
        Event("aten::mm", 1020, 1030, number=5, shapes=[[2, 3], [3, 4]]),
        Event("cudaLaunchKernel", 1022, 1024, number=9, linked=5),
        # its number is that of an operator, and it is linked to nobody
        Event("cudaStreamSynchronize", 1023, 1024, number=5),
        Event("umer1_kernels::info_nce_loss", 1060, 1095, number=6),
        Event("umer1_kernels::info_nce_loss", 10, 20, number=2),
        Event("gemm", 1500, 1540, linked=5, cuda=True),
        Event("splitk_reduce", 1540, 1545, linked=5, cuda=True),
        Event("kernel_of_ours", 1545, 1600, linked=6, cuda=True),
        Event("Memset", 1600, 1603, linked=6, cuda=True),
        Event("kernel_of_ours", 30, 90, linked=2, cuda=True),  # of the slow call
        Event(PREFIX + "forward", 1500, 1603, linked=5, cuda=True),
    ]
    ranges, _ = fastest_call(events, "")
    found = _by_kernel(events, ranges, Launched(), 4)
    assert [(each.name, each.stage, each.nanoseconds, each.kernels) for each in found] == [
        ("aten::mm", "forward", 45, {"gemm": 40, "splitk_reduce": 5}),
        ("kernel_of_ours", "vision", 55, {"kernel_of_ours": 55}),
        ("umer1_kernels::info_nce_loss", "vision", 3, {"Memset": 3}),
    ]
    assert found[0].arguments[0] == Argument((2, 3), 4, "float32")
    assert found[1].cost == Cost(7, 7)
