"""On a GPU: decode attention, page writes and the sampler against float64, and what a GPU alone can show."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
import sampler_truth  # noqa: E402
from decode_cases import CASES, Context, make, renumber, select, truth  # noqa: E402

from umer1_kernels import append_kv, decode_attention, prefix_groups, sample_tokens  # noqa: E402

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32
TOLERANCE = {BFLOAT16: 4e-3, FLOAT16: 6e-4, FLOAT32: 1e-5}
VOCABULARY = 151_936


def run(context: Context, **options) -> torch.Tensor:
    return decode_attention(*context, backend="triton", **options)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double().cpu() - wanted).norm() / wanted.norm().clamp_min(1e-300))


def real(group=6, kv_heads=2, dtype=BFLOAT16, seed=0) -> Context:
    """Two prompts with eight rollouts each, one with twelve (past a tile), and rows without any."""
    prefix_of = [0] * 8 + [1] * 12 + [-1] * 3 + [2] * 8
    suffix = torch.randint(1, 700, (31,), generator=torch.Generator().manual_seed(seed)).tolist()
    options = {"group": group, "kv_heads": kv_heads, "size": 128, "dtype": dtype, "seed": seed}
    return make(prefix_of, [1000, 61, 256], suffix, device="cuda", **options)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_attention_against_float64(name, dtype, poisoned_memory):
    *shape, options = CASES[name]
    context = make(*shape, **options, dtype=dtype, device="cuda")
    wanted = truth(context)
    for split in (256, 100):
        got = run(context, split=split)
        assert got.dtype == dtype and error(got, wanted) <= TOLERANCE[dtype]
        assert (got.cpu()[wanted == 0] == 0).all()


@pytest.mark.parametrize("group, kv_heads", [(6, 2), (7, 4), (1, 4)])
def test_attention_at_real_shapes(group, kv_heads, poisoned_memory):
    context = real(group, kv_heads)
    assert error(run(context), truth(context)) <= TOLERANCE[BFLOAT16]


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32], ids=str)
def test_a_rows_bits_depend_on_its_own_keys_alone(dtype):
    context = real(dtype=dtype)
    together = run(context)
    for rows in ([0], [25], list(range(30, -1, -1)), [9, 21] * 20):
        assert torch.equal(run(select(context, rows)), together[rows])
    assert torch.equal(run(renumber(context)), together)
    wide = torch.nn.functional.pad(context.suffix_table, (0, 9))
    assert torch.equal(run(context._replace(suffix_table=wide)), together)


def test_nothing_waits_and_a_graph_follows_other_lengths():
    """One captured step (write, attend, sample) replayed with other tokens, lengths and prefixes."""
    first, other = real(), real(seed=1)
    rows, heads, size = first.query.shape
    head = torch.randn(heads * size, 5000, device="cuda", dtype=BFLOAT16) * 0.1
    tokens = torch.randn(2, rows, 2, size, device="cuda", dtype=BFLOAT16)
    seed = torch.arange(rows, device="cuda")
    step = torch.zeros_like(seed)
    temperature = torch.rand(rows, device="cuda")
    top_p = torch.where(seed % 2 == 0, 1.0, 0.9)
    width = max(first.suffix_table.shape[1], other.suffix_table.shape[1])
    count = max(len(first.key_pages), len(other.key_pages))

    def widened(context: Context) -> Context:
        missing = count - len(context.key_pages)
        pages = [
            torch.nn.functional.pad(store, (0, 0, 0, 0, 0, 0, 0, missing)) for store in context[1:3]
        ]
        table = torch.nn.functional.pad(
            context.suffix_table, (0, width - context.suffix_table.shape[1])
        )
        return context._replace(key_pages=pages[0], value_pages=pages[1], suffix_table=table)

    def decode(context: Context):
        groups = prefix_groups(context.prefix_of, 3, heads // 2)
        append_kv(tokens[0], tokens[1], *context[1:3], context.suffix_table,
                  context.suffix_length - 1, backend="triton")  # fmt: skip
        found = run(context, groups=groups)
        options = {"temperature": temperature, "top_p": top_p, "backend": "triton"}
        return found, *sample_tokens(found.flatten(1) @ head, seed, step, **options)

    first, other = widened(first), widened(other)
    decode(first)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        decode(first)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = decode(first)
    for mine, theirs in zip(first, other):
        mine.copy_(theirs)
    tokens.normal_()
    step += 3
    graph.replay()
    torch.cuda.synchronize()
    for one, wanted in zip([result.clone() for result in results], decode(other)):
        assert torch.equal(one, wanted)


def test_lengths_do_not_compile_again():
    from umer1_kernels.backends.triton import decode_attention_kernels as attention
    from umer1_kernels.backends.triton import decode_pages_kernels as pages
    from umer1_kernels.backends.triton import sampler_cut, sampler_kernels

    kernels = (
        attention.attend_kernel, attention.merge_kernel, pages.append_kernel, pages.group_kernel,
        sampler_kernels.pool_kernel, sampler_kernels.choose_kernel, sampler_cut.cut_kernel,
        sampler_cut.kept_kernel,
    )  # fmt: skip
    cached = lambda: [sum(len(c[0]) for c in kernel.device_caches.values()) for kernel in kernels]

    def launch(rows: int, length: int) -> None:
        context = make(
            [0] * rows, [length], [length] * rows, size=128, dtype=BFLOAT16, device="cuda"
        )
        append_kv(context.query[:, :2], context.query[:, :2], *context[1:3], context.suffix_table,
                  context.suffix_length - 1, backend="triton")  # fmt: skip
        run(context)
        logits = torch.randn(rows, 5008, device="cuda", dtype=BFLOAT16)
        index = torch.arange(rows, device="cuda")
        sample_tokens(logits, index, index, temperature=1.0, top_k=5, backend="triton")

    launch(8, 100)
    before = cached()
    for rows, length in ((1, 1), (3, 16), (16, 64), (17, 300), (64, 1000)):
        launch(rows, length)
    assert cached() == before and all(before)


def test_more_than_2_to_the_31_numbers():
    pages = 2**31 // (2 * 64 * 128) + 9
    if torch.cuda.get_device_properties(0).total_memory < 24 * 2**30:
        pytest.skip("needs 24 GiB")
    small = make([0, -1], [100], [70, 3], size=128, dtype=BFLOAT16, device="cuda")
    count = len(small.key_pages)
    stores = [torch.empty(pages, 2, 64, 128, dtype=BFLOAT16, device="cuda") for _ in range(2)]
    for store, page in zip(stores, small[1:3]):
        store[-count:] = page
    moved = small._replace(
        key_pages=stores[0], value_pages=stores[1],
        prefix_table=small.prefix_table + (pages - count),
        suffix_table=small.suffix_table + (pages - count),
    )  # fmt: skip
    assert torch.equal(run(moved), run(small))
    token = torch.randn(2, 2, 128, dtype=BFLOAT16, device="cuda")
    for context in (small, moved):
        append_kv(token, token, *context[1:3], context.suffix_table, context.suffix_length - 1,
                  backend="triton")  # fmt: skip
    assert torch.equal(stores[0][-count:].nan_to_num(9.0), small.key_pages.nan_to_num(9.0))


@pytest.mark.parametrize("rows, prefixes", [(1, 1), (256, 32), (300, 1), (1000, 400)])
def test_groups_hold_every_row_once(rows, prefixes):
    prefix_of = torch.randint(-1, prefixes, (rows,), device="cuda").int()
    order, tiles, most = prefix_groups(prefix_of, prefixes, 6)
    found = [(prefix, row) for prefix, first, count in tiles.tolist()
             for row in order[first : first + count].tolist()]  # fmt: skip
    wanted = [(prefix, row) for row, prefix in enumerate(prefix_of.tolist()) if prefix >= 0]
    assert sorted(found) == sorted(wanted) and int(tiles[:, 2].max()) <= most


def test_append_at_real_shapes():
    pages = [torch.zeros(50, 2, 64, 128, dtype=BFLOAT16, device="cuda") for _ in range(4)]
    key, value = torch.randn(2, 700, 2, 128, dtype=BFLOAT16, device="cuda").unbind()
    table = torch.randperm(48, device="cuda").int().view(4, 12)
    token = torch.arange(700, device="cuda").int()
    row, position = token // 175, token % 175 * 4
    position[::7] = -1
    for stores, backend in ((pages[:2], "triton"), (pages[2:], "reference")):
        append_kv(key, value, *stores, table, position, table_row=row, backend=backend)
    assert torch.equal(pages[0], pages[2]) and torch.equal(pages[1], pages[3])


OPTIONS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 50},
    {"temperature": 1.2, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 0.999},
]


def table(count: int) -> dict[str, torch.Tensor]:
    """The settings of rows that take turns."""
    chosen = [OPTIONS[row % len(OPTIONS)] for row in range(count)]
    return {name: torch.tensor([each.get(name, default) for each in chosen], device="cuda")
            for name, default in (("temperature", 0.0), ("top_p", 1.0), ("top_k", 0))}  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_the_samplers_definition_at_a_real_vocabulary(spread, dtype, poisoned_memory):
    count = len(OPTIONS)
    logits = (spread * torch.randn(count, VOCABULARY, device="cuda")).to(dtype)
    seed = torch.randint(-(2**63), 2**63 - 1, (count,), device="cuda")
    step = torch.arange(count, device="cuda")
    token, logprob = sample_tokens(logits, seed, step, **table(count), backend="triton")
    near = 0
    for row, options in enumerate(OPTIONS):
        arguments = (logits[row].double().cpu().numpy(), int(seed[row]), int(step[row]))
        wanted, wanted_logprob, margin = sampler_truth.sample(*arguments, **options)
        near += margin < 1e-6
        if margin >= 1e-6:
            assert int(token[row]) == wanted
            assert float(logprob[row]) == pytest.approx(wanted_logprob, abs=3e-6, rel=3e-6)
    assert near <= 1


def test_tokens_are_the_references():
    """300 rows of every kind: only rows within rounding of an edge may differ."""
    logits = 3 * torch.randn(300, VOCABULARY, device="cuda")
    seed = torch.randint(-(2**63), 2**63 - 1, (300,), device="cuda")
    step = torch.arange(300, device="cuda")
    got, wanted = (sample_tokens(logits, seed, step, **table(300), backend=backend)
                   for backend in ("triton", "reference"))  # fmt: skip
    assert int((got.token != wanted.token).sum()) <= 2
    order = torch.randperm(300, device="cuda")
    settings = {name: values[order] for name, values in table(300).items()}
    again = sample_tokens(logits[order], seed[order], step[order], **settings, backend="triton")
    assert torch.equal(again.token, got.token[order])
    assert torch.equal(again.logprob, got.logprob[order])


def test_frequencies():
    """Chi-square of 100,000 draws over 8 tokens: below its 99.9th percentile."""
    logits = torch.tensor([1.0, 3.0, -1.0, 2.5, 0.0, 2.0, 1.5, -2.0], device="cuda")
    draws = 100_000
    seed = torch.arange(draws, device="cuda")
    token = sample_tokens(
        logits.expand(draws, -1).contiguous(), seed, seed * 0, temperature=2.0, backend="triton"
    ).token
    counted = np.bincount(token.cpu().numpy(), minlength=8)
    expected = (draws * torch.softmax(logits.double() / 2, 0)).cpu().numpy()
    assert ((counted - expected) ** 2 / expected).sum() < 24.3
