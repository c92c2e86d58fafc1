"""decode_attention and append_kv: float64, pages that may not be read, bits that do not depend on the batch."""

import pytest
import torch
from decode_cases import CASES, Context, make, renumber, select, truth
from hypothesis import given, settings
from hypothesis import strategies as st

import umer1_kernels as kernels
from umer1_kernels import append_kv, decode_attention


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-300))


# a bfloat16 result is rounded once (1.7e-3), its weights once more
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name, dtype, backend, poisoned_memory):
    *shape, options = CASES[name]
    context = make(*shape, **options, dtype=dtype)
    wanted = truth(context)
    for split in (256, 100):
        got = decode_attention(*context, split=split, backend=backend)
        assert got.dtype == dtype and got.shape == context.query.shape
        assert error(got, wanted) <= TOLERANCE[dtype]
        assert (got[wanted == 0] == 0).all()  # rows without any key


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_lengths(data):
    prefixes = data.draw(st.lists(st.integers(0, 90), max_size=3))
    rows = data.draw(st.lists(
        st.tuples(st.integers(-1, len(prefixes) - 1), st.integers(0, 90)), min_size=1, max_size=9
    ))  # fmt: skip
    options = {"page_length": data.draw(st.sampled_from([1, 8, 24])), "size": 16, "group": 2}
    context = make([row[0] for row in rows], prefixes, [row[1] for row in rows], **options)
    got = decode_attention(*context, split=data.draw(st.sampled_from([1, 7, 32])), backend="cpu")
    torch.testing.assert_close(got.double(), truth(context), rtol=1e-5, atol=2e-6)


def test_the_reference_in_float64_and_float16():
    *shape, options = CASES["three prefixes and none"]
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float16, 4e-4)):
        context = make(*shape, **options, dtype=dtype)
        for backend in ("auto", "reference"):
            assert error(decode_attention(*context, backend=backend), truth(context)) <= tolerance


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", [1, 6, 7])
def test_a_rows_bits_depend_on_its_own_keys_alone(dtype, group):
    """Alone, in any batch, in any order, on other pages, beside other prefixes, on any threads."""
    *shape, options = CASES["three prefixes and none"]
    context = make(*shape, **(options | {"group": group}), dtype=dtype)
    run = lambda context: decode_attention(*context, split=64, backend="cpu")
    together = run(context)
    count = len(together)
    for row in range(count):
        assert torch.equal(run(select(context, [row])), together[row : row + 1])
    order = torch.randperm(count).tolist()
    assert torch.equal(run(select(context, order)), together[order])
    crowd = [row for row in range(count) for _ in range(20)]  # past the rows of one tile
    assert torch.equal(run(select(context, crowd)), together[crowd])
    assert torch.equal(run(renumber(context)), together)
    threads = torch.get_num_threads()
    try:
        for number in (2, 3):
            torch.set_num_threads(number)
            assert torch.equal(run(select(context, crowd)), together[crowd])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_shared_prefix_is_a_prefix_of_each_row(dtype):
    """The same bits as when every row has a prefix of its own with the same keys."""
    context = make([0, 0, 0], [150], [3, 70, 1], dtype=dtype)
    apart = context._replace(
        prefix_table=context.prefix_table.repeat(3, 1),
        prefix_length=context.prefix_length.repeat(3),
        prefix_of=torch.arange(3, dtype=torch.int32),
    )
    results = [decode_attention(*each, backend="cpu") for each in (context, apart)]
    assert torch.equal(*results)


def test_strided_queries_pages_and_tables(backend):
    """Queries as they come out of a fused product, keys and values in one store, views of tables."""
    context = make([0, -1, 0], [70], [9, 64, 130], size=64)
    plain = decode_attention(*context, backend=backend)
    rows, heads, size = context.query.shape
    fused = torch.randn(rows, heads + 4, size)
    fused[:, 2 : 2 + heads] = context.query
    store = torch.stack([context.key_pages, context.value_pages], 1)
    wide = torch.cat([context.suffix_table, torch.full((rows, 3), -9).int()], 1)
    strided = Context(
        fused[:, 2 : 2 + heads], store[:, 0], store[:, 1], *context[3:6],
        wide[:, : context.suffix_table.shape[1]], context.suffix_length,
    )  # fmt: skip
    assert torch.equal(decode_attention(*strided, backend=backend), plain)
    last = context._replace(query=context.query.transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(decode_attention(*last, backend=backend), plain)


def test_scale_and_large_scores(backend):
    context = make([0, 0], [90], [40, 3])
    for scale in (1e-3, 1.0, 30.0):
        got = decode_attention(*context, scale=scale, split=32, backend=backend)
        assert error(got, truth(context, scale)) <= 3e-5


def test_no_gradient_flows(backend):
    context = make([-1], [], [5])
    query = context.query.requires_grad_()
    assert not decode_attention(query, *context[1:], backend=backend).requires_grad


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("by_row", [False, True])
def test_append_writes_its_places_and_nothing_else(dtype, by_row, backend):
    key, value = torch.randn(2, 5, 3, 8).to(dtype).unbind()
    pages = [torch.full((9, 3, 4, 8), float("nan")).to(dtype) for _ in range(2)]
    table = torch.tensor([[8, 1, 2], [0, 3, 7], [5, 6, 4], [-1, -1, -1], [-1, -1, -1]]).int()
    position = torch.tensor([3, 5, -1, -1, -1] if not by_row else [3, 5, -1, 11, 0]).int()
    table_row = torch.tensor([0, 0, 3, 2, 2]).int() if by_row else None
    wanted = [page.clone() for page in pages]
    for token, place in enumerate(position.tolist()):
        if place < 0:
            continue
        page = int(table[table_row[token] if by_row else token, place // 4])
        for side, rows in enumerate((key, value)):
            wanted[side][page, :, place % 4] = rows[token]
    fused = torch.cat([key, value], 1)  # as they come out of a fused product
    append_kv(
        fused[:, :3], fused[:, 3:], *pages, table, position, table_row=table_row, backend=backend
    )
    for got, other in zip(pages, wanted):
        assert torch.equal(got.nan_to_num(99.0), other.nan_to_num(99.0))


def test_append_without_tokens_and_with_none_written(backend):
    pages = [torch.zeros(2, 1, 4, 8) for _ in range(2)]
    table = torch.zeros(3, 1, dtype=torch.int32)
    for count in (0, 3):
        rows = torch.ones(count, 1, 8)
        append_kv(rows, rows, *pages, table, torch.full((count,), -1).int(), backend=backend)
    assert not any(page.any() for page in pages)


def test_steps_of_a_generation(backend):
    """Written one token at a time, read after each: the same as all keys at once."""
    context = make([0, 0], [70], [6, 6], page_length=4)
    pages = [torch.full_like(store, float("nan")) for store in context[1:3]]
    for page in context.prefix_table.flatten().tolist()[:-1]:
        for new, old in zip(pages, context[1:3]):
            new[page] = old[page]
    for step in range(6):
        position = torch.full((2,), step).int()
        page = context.suffix_table[torch.arange(2), step // 4].long()
        tokens = [store[page, :, step % 4] for store in context[1:3]]
        append_kv(*tokens, *pages, context.suffix_table, position, backend=backend)
        now = context._replace(suffix_length=position + 1)
        got = decode_attention(now.query, *pages, *now[3:], backend=backend)
        assert error(got, truth(now)) <= 2e-6


def test_explain():
    context = make([-1], [], [5])
    choice = kernels.explain(decode_attention, *context)
    assert choice.backend == "cpu" and "read once" in choice.plan
    half = context._replace(
        **{name: getattr(context, name).double() for name in Context._fields[:3]}
    )
    choice = kernels.explain("decode_attention", *half)
    assert choice.backend == "reference" and "not torch.float64" in choice.reason


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"query": torch.zeros(2, 12)}, "query has shape"),
        ({"query": torch.zeros(2, 11, 64)}, "query has 11 heads"),
        ({"query": torch.zeros(2, 12, 32)}, "key_pages has head size 64"),
        ({"query": torch.zeros(2, 12, 64).bfloat16()}, "key_pages has dtype"),
        ({"value_pages": torch.zeros(1, 2, 64, 64)}, "value_pages has shape"),
        ({"prefix_of": torch.zeros(3).int()}, "prefix_of has shape"),
        ({"prefix_of": torch.zeros(2).long()}, "prefix_of has dtype"),
        ({"prefix_length": torch.zeros(2).int()}, "prefix_table has shape"),
        ({"suffix_table": torch.zeros(3, 2).int()}, "suffix_table has shape"),
        ({"suffix_length": torch.zeros(2)}, "suffix_length has dtype"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"split": 0}, "split is 0"),
        ({"split": 2.5}, "split is 2.5"),
        ({"backend": "gpu"}, "backend is 'gpu'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_argument(change, problem):
    context = make([0, -1], [5], [3, 9])
    options = {name: change[name] for name in change if name not in Context._fields}
    tensors = context._replace(**{name: change[name] for name in change if name not in options})
    with pytest.raises((ValueError, TypeError), match=problem):
        decode_attention(*tensors, **options)


def test_pages_must_be_whole():
    context = make([-1], [], [5])
    with pytest.raises(ValueError, match="key_pages has strides .* a page must be contiguous"):
        pages = [store.transpose(1, 2).contiguous().transpose(1, 2) for store in context[1:3]]
        decode_attention(context.query, *pages, *context[3:])


@pytest.mark.parametrize(
    "name, place, number, problem",
    [
        ("prefix_of", (0,), 1, r"prefix_of holds 1; it must be in \[-1, 1\)"),
        ("prefix_length", (0,), 129, r"prefix_length holds 129; it must be in \[0, 128\]"),
        ("suffix_length", (1,), -1, "suffix_length holds -1"),
        ("prefix_table", (0, 0), 99, "prefix_table holds 99"),
        ("suffix_table", (1, 0), -1, "suffix_table holds -1"),
    ],
)
def test_numbers_out_of_range_are_found_on_the_cpu(name, place, number, problem):
    context = make([0, -1], [5], [3, 9])
    getattr(context, name)[place] = number
    with pytest.raises(RuntimeError, match=problem):
        decode_attention(*context, backend="cpu")


def test_errors_of_append():
    rows, pages = torch.zeros(2, 1, 8), torch.zeros(3, 1, 4, 8)
    table, position = torch.zeros(2, 1).int(), torch.zeros(2).int()
    with pytest.raises(ValueError, match="value has shape"):
        append_kv(rows, rows[:1], pages, pages, table, position)
    with pytest.raises(ValueError, match="table has 1 rows for 2 tokens; pass table_row"):
        append_kv(rows, rows, pages, pages, table[:1], position)
    with pytest.raises(TypeError, match="position has dtype"):
        append_kv(rows, rows, pages, pages, table, position.long())
    with pytest.raises(RuntimeError, match="position holds 4; it must be below 4"):
        append_kv(rows, rows, pages, pages, table, position + 4, backend="cpu")
    with pytest.raises(RuntimeError, match="table_row holds 5"):
        append_kv(rows, rows, pages, pages, table, position, table_row=position + 5, backend="cpu")
    with pytest.raises(RuntimeError, match="table holds 3"):
        append_kv(rows, rows, pages, pages, table + 3, position, backend="cpu")
