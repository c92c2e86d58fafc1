"""Decode attention and page writes under the interpreter, in float32; run by test_interpreted.py."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from decode_cases import CASES, make, renumber, select, truth  # noqa: E402

from umer1_kernels import append_kv, decode_attention, prefix_groups  # noqa: E402
from umer1_kernels.backends.triton import decode_attention as operators  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def run(context, **options):
    return decode_attention(*context, backend="triton", **({"split": 64} | options))


@pytest.mark.parametrize("name", [name for name in CASES if name != "many rows"])
def test_against_float64(name):
    *shape, options = CASES[name]
    context = make(*shape, **options)
    wanted = truth(context)
    got = run(context)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=2e-6)
    assert (got[wanted == 0] == 0).all()


def test_parts_that_end_within_a_page():
    context = make([0, 1, 0], [70, 45], [30, 90, 1], page_length=24, size=16, group=2)
    for split in (7, 40, 1000):
        got = run(context, split=split)
        torch.testing.assert_close(got.double(), truth(context), rtol=1e-5, atol=2e-6)


def test_a_rows_bits_depend_on_its_own_keys_alone():
    context = make([1, 0, -1, 0], [30, 90], [3, 70, 20, 1], size=32)
    together = run(context)
    for rows in ([3], [2, 1], [1, *[3] * 11, 0]):  # past the rows of one tile
        assert torch.equal(run(select(context, rows)), together[rows])
    assert torch.equal(run(renumber(context)), together)
    wide = context._replace(suffix_table=torch.nn.functional.pad(context.suffix_table, (0, 5)))
    assert torch.equal(run(wide), together)


def test_strided_queries_pages_and_tables():
    context = make([0, -1, 0], [70], [9, 64, 30], size=32)
    rows, heads, size = context.query.shape
    fused = torch.randn(rows, heads + 4, size)
    fused[:, 2 : 2 + heads] = context.query
    store = torch.stack([context.key_pages, context.value_pages], 1)
    wide = torch.cat([context.suffix_table, torch.full((rows, 3), -9).int()], 1)
    strided = context._replace(
        query=fused[:, 2 : 2 + heads], key_pages=store[:, 0], value_pages=store[:, 1],
        suffix_table=wide[:, : context.suffix_table.shape[1]],
    )  # fmt: skip
    assert torch.equal(run(strided), run(context))


@pytest.mark.parametrize("rows", [0, 1, 5, 200])
@pytest.mark.parametrize("prefixes", [0, 1, 4])
def test_groups_hold_every_row_once(rows, prefixes):
    prefix_of = torch.randint(-1, max(prefixes, 1), (rows,)).int()
    prefix_of = prefix_of if prefixes else torch.full_like(prefix_of, -1)
    order, tiles, most = prefix_groups(prefix_of, prefixes, 7)
    assert most == 9 and len(tiles) == rows // 9 + prefixes
    found = {}
    for prefix, first, count in tiles.tolist():
        assert count <= most
        members = order[first : first + count].tolist()
        found.setdefault(prefix, []).extend(members)
        assert members == sorted(members)
    for prefix in range(prefixes):
        wanted = (prefix_of == prefix).nonzero()[:, 0].tolist()
        assert sorted(found.get(prefix, [])) == wanted


def test_groups_made_once_for_all_layers():
    context = make([0, -1, 0, 1], [40, 20], [9, 4, 3, 30], size=32)
    groups = prefix_groups(context.prefix_of, 2, 6)
    assert torch.equal(run(context, groups=groups), run(context))
    with pytest.raises(ValueError, match="groups has tiles of 64 rows; with 6 query heads"):
        run(context, groups=prefix_groups(context.prefix_of, 2, 1))


@pytest.mark.parametrize("by_row", [False, True])
def test_append(by_row):
    key, value = torch.randn(2, 5, 3, 8).unbind()
    pages = [[torch.full((9, 3, 4, 8), float("nan")) for _ in range(2)] for _ in range(2)]
    table = torch.tensor([[8, 1, 2], [0, 3, 7], [5, 6, 4], [-1, -1, -1], [-1, -1, -1]]).int()
    position = torch.tensor([3, 5, -1, 11, 0] if by_row else [3, 5, -1, -1, -1]).int()
    row = torch.tensor([0, 0, 3, 2, 2]).int() if by_row else None
    fused = torch.cat([key, value], 1)
    for (key_pages, value_pages), backend in zip(pages, ("triton", "reference")):
        append_kv(fused[:, :3], fused[:, 3:], key_pages, value_pages, table, position,
                  table_row=row, backend=backend)  # fmt: skip
    for got, wanted in zip(*pages):
        assert torch.equal(got.nan_to_num(99.0), wanted.nan_to_num(99.0))


def test_operators_are_registered_completely():
    checks = ("test_schema", "test_faketensor")
    context = make([0, -1], [5], [3, 2], size=16, group=1, page_length=4)
    groups = operators.prefix_groups(context.prefix_of, 1, 64)
    torch.library.opcheck(operators.attend, (*context, 0.3, 4, *groups), test_utils=checks)
    torch.library.opcheck(operators.prefix_groups, (context.prefix_of, 1, 3), test_utils=checks)
    tokens, places = torch.zeros(2, 2, 16), torch.tensor([0, -1]).int()
    pages = [torch.zeros(3, 2, 4, 16) for _ in range(2)]
    arguments = (tokens, tokens, *pages, context.suffix_table, places, None)
    torch.library.opcheck(operators.append_, arguments, test_utils=checks)
