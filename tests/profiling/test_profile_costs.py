"""FLOPs and bytes of operators: against torch's own counter, and against sizes counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from umer1.profiling.costs import ITEM_BYTES, Argument, Cost, argument, aten_cost
from umer1.profiling.kernel_costs import operator_cost
from umer1.profiling.profile import operation_costs
from umer1.profiling.trace import record
from umer1.profiling.workload import Workload

torch_version = tuple(int(part) for part in torch.__version__.split(".")[:2])


def recorded(call) -> dict[str, Cost | None]:
    """The cost of every operator of a call, by name."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    found = {}
    for event in profiler.profiler.kineto_results.events():
        shapes = getattr(event, "structured_input_shapes", event.shapes)()
        inputs = tuple(argument(*each, 4) for each in zip(shapes, event.dtypes()))
        found[event.name()] = aten_cost(event.name(), inputs, tuple(event.concrete_inputs()))
    return found


def products(left, right, batch):
    return {
        "mm": lambda: left @ right,
        "addmm": lambda: torch.addmm(right[0], left, right),
        "bmm": lambda: torch.bmm(batch, batch.mT),
        "baddbmm": lambda: torch.baddbmm(batch[:, :1, :1], batch, batch.mT),
        "linear": lambda: F.linear(left, right.T, right[0]),
    }


@pytest.mark.parametrize("name", ["mm", "addmm", "bmm", "baddbmm", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_agree_with_torchs_counter(name, dtype):
    left, right, batch = (torch.randn(*s).to(dtype) for s in ((63, 20), (20, 48), (3, 7, 11)))
    call = products(left, right, batch)[name]
    with FlopCounterMode(display=False) as counter:
        call()
    trace = record(Workload(call, dtype), torch.device("cpu"))
    found = [cost for cost in operation_costs(trace.operations) if cost is not None and cost.dtype]
    assert sum(cost.flop for cost in found) == counter.get_total_flops()
    assert {cost.dtype for cost in found} == {str(dtype).removeprefix("torch.")}


def test_bytes_of_a_known_product():
    left, right = torch.randn(63, 20), torch.randn(20, 48)
    cost = recorded(lambda: left @ right)["aten::mm"]
    assert cost == Cost(2 * 63 * 20 * 48, 4 * (63 * 20 + 20 * 48 + 63 * 48), "float32")
    total = torch.randn(63, 48)
    cost = recorded(lambda: total.addmm_(left, right))["aten::addmm_"]
    assert cost.bytes == 4 * (63 * 20 + 20 * 48 + 2 * 63 * 48)


def test_a_wider_output_counts_as_wide():
    half = Argument((4, 8), 2, "bfloat16")
    wide = Argument((4, 4), 4, "float32")
    assert aten_cost("aten::mm", (half, half._replace(shape=(8, 4)), None, wide), ()).bytes == (
        2 * (2 * 4 * 8) + 4 * 4 * 4
    )


@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradient(causal):
    query, key, value = (torch.randn(2, 3, 17, 8, requires_grad=True) for _ in range(3))

    def call():
        F.scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()

    costs = recorded(call)
    found = {name: costs[name] for name in costs if "attention" in name and costs[name].flop}
    assert len(found) == 2
    forward, backward = sorted(found.values(), key=lambda cost: cost.flop)
    # two products forward; five backward, the scores being made again
    product = 2 * (2 * 3) * 17 * 17 * 8 * (0.5 if causal else 1.0)
    assert (forward.flop, backward.flop) == (2 * product, 5 * product)
    assert forward.bytes == 4 * query.numel() * 4  # query, key, value, output


def test_element_by_element():
    wide, row = torch.randn(30, 40), torch.randn(40)
    found = recorded(lambda: wide + row)["aten::add"]
    assert found == Cost(1200, 4 * (1200 + 40 + 1200))
    assert recorded(lambda: wide.mul_(2.0))["aten::mul_"].bytes == 4 * 2 * 1200
    assert recorded(lambda: wide.copy_(row))["aten::copy_"] == Cost(0, 4 * (1200 + 40))
    assert recorded(lambda: wide.zero_())["aten::zero_"].bytes == 4800
    assert recorded(lambda: wide.sum())["aten::sum"].bytes == 4800
    assert recorded(lambda: torch.softmax(wide, 1))["aten::_softmax"].bytes == 9600


def test_rows_that_are_taken_or_put():
    table, index = torch.randn(50, 6), torch.tensor([3, 1, 4])
    assert recorded(lambda: table.index_select(0, index))["aten::index_select"].bytes == 2 * 3 * 24
    found = recorded(lambda: F.embedding(index, table))
    assert found["aten::embedding"].bytes == 2 * 3 * 24
    found = recorded(lambda: table.index_fill_(0, index, 0.0))
    assert found["aten::index_fill_"].bytes == 3 * 24
    rows = torch.randn(3, 6)
    found = recorded(lambda: table.index_copy_(0, index, rows))
    assert found["aten::index_copy_"].bytes == 2 * 3 * 24


def test_what_has_no_model_says_so():
    assert aten_cost("aten::unheard_of", (Argument((3,), 4),), ()) is None
    assert aten_cost("aten::view", (Argument((3,), 4),), ()) == Cost(0, 0)
    assert aten_cost("torch_thing::mm", (Argument((3, 3), 4),) * 2, ()) is None
    # an argument that the trace does not describe
    assert aten_cost("aten::mm", (None, Argument((3, 3), 4)), ()) is None
    assert aten_cost("aten::add", (None, None), ()) is None


def test_arguments_of_a_trace():
    assert argument([3, 5], "c10::BFloat16", 4) == Argument((3, 5), 2, "bfloat16")
    assert argument([], "Scalar", 4) is None
    assert argument([[3, 5], [7]], "TensorList", 2) == Argument((22,), 2)
    assert argument([], "TensorList", 2) is None
    assert ITEM_BYTES["long int"] == 8


@pytest.mark.skipif(torch_version < (2, 15), reason="this torch records no shapes in lists")
def test_lists_count_together():
    sides = [torch.randn(3, 4), torch.randn(5, 4)]
    assert recorded(lambda: torch.cat(sides))["aten::cat"].bytes == 2 * 4 * 32


def half(*shape):
    return Argument(shape, 2, "bfloat16")


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("bf16_keep", (half(100, 64), half(300, 64)),
         Cost(2 * 100 * 64 * 300, 2 * (100 * 64 + 300 * 64 + 100 * 300), "bfloat16")),
        ("bf16_pools", (half(100, 64), half(300, 64)),
         Cost(2 * 100 * 64 * 300, 2 * (100 * 64 + 300 * 64), "bfloat16")),
        ("bf16_kept_gradient_", (half(100, 300),), Cost(30_000, 2 * 2 * 30_000)),
        ("row_pools", (Argument((100, 300), 4),), Cost(30_000, 120_000)),
        ("gather_hidden", (half(1000, 64), Argument((1000,), 8), Argument((4,), 8)),
         Cost(512, 4 * 64 * (2 + 4))),
        ("group_reward_from_vectors", (half(4, 8, 64), half(4, 8, 64)),
         Cost(2 * 32 * 64 * 32, 2 * 2 * 32 * 64, "bfloat16")),
        ("small_dual_info_nce", (half(100, 64), half(300, 64), None, None),
         Cost(2 * 100 * 64 * 300, 2 * 400 * 64, "bfloat16")),
        ("small_dual_info_nce_gradient", (*[half(100, 64), half(300, 64)] * 2, half(4, 128, 384)),
         Cost(2 * 4 * 2 * 100 * 64 * 300, 2 * 2 * 2 * 400 * 64 + 2 * 4 * 128 * 384, "bfloat16")),
    ],
)  # fmt: skip
def test_our_own_operators(name, arguments, wanted):
    assert operator_cost(f"umer1_kernels::{name}", arguments) == wanted


def test_every_compiled_operator_with_tensors_has_a_model():
    from umer1_kernels.extension import OPERATORS

    some = (half(8, 8), half(8, 8), half(8, 8))
    without = [name for name in OPERATORS if operator_cost(f"umer1_kernels::{name}", some) is None]
    # how many keys a query has is in tensors' values
    attention = ["decode_attention", "packed_attention"]
    assert without == ["bf16_softmax_available", *attention, "has_cuda_kernels"]
