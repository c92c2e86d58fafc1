"""Matrix product with a device-side row count: tiles that only hold dead rows are never made.

Legend: out [M, N] = left [M, K] @ right [K, N]. LIVE says which size the device counts: rows M of
the output, or the depth K that is summed over.
"""

from __future__ import annotations

import triton
import triton.language as tl

ALL, ROWS, DEPTH = 0, 1, 2  # what `live` counts
_ROWS, _DEPTH = tl.constexpr(ROWS), tl.constexpr(DEPTH)
_FEWEST_STEPS = tl.constexpr(8)  # of a part of the depth


@triton.jit
def _multiple(size, VECTOR: tl.constexpr):
    """The size, which the caller knows to be a multiple, so that the compiler knows it too."""
    return size // VECTOR * VECTOR


@triton.jit
def _load_tile(
    source,  # stored row-major as [slow, fast]
    stride,
    i,  # of the tile's first entry, counted along the tile's own dimensions
    j,
    size_i,
    size_j,
    TRANSPOSED: tl.constexpr,  # the tile's first dimension is the fast one
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """[BLOCK_I, BLOCK_J], 0 outside the matrix."""
    if DESCRIPTORS:
        if TRANSPOSED:
            tile = source.load([j, i]).T
        else:
            tile = source.load([i, j])
    else:
        rows = i + tl.arange(0, BLOCK_I)[:, None]
        columns = j + tl.arange(0, BLOCK_J)[None, :]
        if TRANSPOSED:
            pointers = source + columns.to(tl.int64) * stride + rows
        else:
            pointers = source + rows.to(tl.int64) * stride + columns
        tile = tl.load(pointers, mask=(rows < size_i) & (columns < size_j), other=0.0)
    return tile


@triton.jit
def _origin(
    tile, tiles_m, tiles_n, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """First row and column of a tile; GROUP row tiles go through the columns together."""
    group = tile // (GROUP * tiles_n)
    group_size = tl.minimum(tiles_m - group * GROUP, GROUP)
    within = tile - group * GROUP * tiles_n
    return (group * GROUP + within % group_size) * BLOCK_M, within // group_size * BLOCK_N


@triton.jit
def _splits(tiles, depth, programs, BLOCK_K: tl.constexpr):
    """Into how many parts the depth of each tile goes, so that few tiles fill the programs."""
    spare = programs // tl.maximum(tiles, 1)
    return tl.maximum(tl.minimum(spare, tl.cdiv(depth, BLOCK_K * _FEWEST_STEPS)), 1)


@triton.jit
def _store_tile(
    out,
    stride,
    tile,
    m,
    n,
    rows,
    columns,
    live_rows,
    ACCUMULATE: tl.constexpr,
    ZERO_DEAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # half the columns at a time: the addresses of a whole tile do not fit the registers
    halves = tl.permute(tl.reshape(tile, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
    first, second = tl.split(halves)
    row = m + tl.arange(0, BLOCK_M)
    for half in tl.static_range(2):
        values = second if half else first
        column = n + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        pointers = out + row.to(tl.int64)[:, None] * stride + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        if ACCUMULATE:
            values += tl.load(pointers, mask=inside, other=0.0)
        if ZERO_DEAD:
            values = tl.where((row < live_rows)[:, None], values, 0.0)
        tl.store(pointers, values.to(out.dtype.element_ty), mask=inside)


@triton.jit(
    do_not_specialize=[
        "first_row",
        "rows",
        "columns",
        "depth",
        "left_stride",
        "right_stride",
        "out_stride",
    ],
    do_not_specialize_on_alignment=["live"],
)
def product_kernel(
    left,  # row-major [M, K], or [K, M] if LEFT_TRANSPOSED; a tensor descriptor if DESCRIPTORS
    right,  # row-major [K, N], or [N, K] if RIGHT_TRANSPOSED
    out,  # [M, N]
    parts,  # float32 [programs, BLOCK_M, BLOCK_N] with SPLIT: sums over parts of the depth
    live,  # int32, how many rows (or how much of the depth) count; unused with LIVE = ALL
    first_row,  # `live` counts from this many rows before the first one here
    rows,
    columns,
    depth,
    left_stride,
    right_stride,
    out_stride,
    LEFT_TRANSPOSED: tl.constexpr,
    RIGHT_TRANSPOSED: tl.constexpr,
    LIVE: tl.constexpr,
    ACCUMULATE: tl.constexpr,  # out += product
    ZERO_DEAD: tl.constexpr,  # write 0 to dead rows, which stay untouched otherwise
    SPLIT: tl.constexpr,  # few tiles share the programs: merge_parts_kernel has to follow
    DESCRIPTORS: tl.constexpr,
    EVEN_IN: tl.constexpr,  # the operands' rows fill whole 16-byte accesses
    EVEN_OUT: tl.constexpr,  # the output's rows have room for whole ones
    VECTOR: tl.constexpr,  # input elements in 16 bytes
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,  # row tiles that run side by side, so that they share the right matrix
):
    live_rows = rows
    if LIVE == _ROWS:
        live_rows = tl.maximum(tl.minimum(tl.load(live) - first_row, rows), 0)
    if LIVE == _DEPTH:
        depth = tl.maximum(tl.minimum(tl.load(live) - first_row, depth), 0)
    left_stride = _multiple(left_stride.to(tl.int64), VECTOR)
    right_stride = _multiple(right_stride.to(tl.int64), VECTOR)
    out_stride = out_stride.to(tl.int64)
    out_columns = columns
    if EVEN_OUT:
        out_columns = tl.cdiv(columns, VECTOR) * VECTOR
        out_stride = _multiple(out_stride, VECTOR)
    if EVEN_IN:
        if LEFT_TRANSPOSED:
            rows = _multiple(rows, VECTOR)
        else:
            depth = _multiple(depth, VECTOR)
        if not RIGHT_TRANSPOSED:
            columns = _multiple(columns, VECTOR)

    tiles_m = tl.cdiv(live_rows, BLOCK_M)
    tiles_n = tl.cdiv(columns, BLOCK_N)
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    tiles = tiles_m * tiles_n
    splits = 1
    if SPLIT:
        splits = _splits(tiles, depth, programs, BLOCK_K)
    for item in range(program, tiles * splits, programs):
        m, n = _origin(item // splits, tiles_m, tiles_n, GROUP, BLOCK_M, BLOCK_N)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        # descriptors do not mask by a count on the device: their last, partial step is apart
        APART: tl.constexpr = DESCRIPTORS and LIVE == _DEPTH
        steps = depth // BLOCK_K if APART else tl.cdiv(depth, BLOCK_K)
        first_step = 0
        if SPLIT:
            share = tl.cdiv(steps, splits)
            first_step = item % splits * share
            steps = tl.minimum(first_step + share, steps)
        for step in range(first_step, steps):
            k = step * BLOCK_K
            a = _load_tile(
                left, left_stride, m, k, rows, depth, LEFT_TRANSPOSED, BLOCK_M, BLOCK_K, DESCRIPTORS
            )
            b = _load_tile(
                right, right_stride, k, n, depth, columns, RIGHT_TRANSPOSED, BLOCK_K, BLOCK_N,
                DESCRIPTORS,
            )  # fmt: skip
            total = tl.dot(a, b, total, input_precision="ieee")
        if APART:
            k = steps * BLOCK_K
            if k < depth:
                a = _load_tile(
                    left, left_stride, m, k, rows, depth, LEFT_TRANSPOSED, BLOCK_M, BLOCK_K,
                    DESCRIPTORS,
                )  # fmt: skip
                b = _load_tile(
                    right, right_stride, k, n, depth, columns, RIGHT_TRANSPOSED, BLOCK_K, BLOCK_N,
                    DESCRIPTORS,
                )  # fmt: skip
                counts = k + tl.arange(0, BLOCK_K) < depth
                # both: a dead row may hold NaN on either side
                a = tl.where(counts[None, :], a, 0.0)
                b = tl.where(counts[:, None], b, 0.0)
                total = tl.dot(a, b, total, input_precision="ieee")
        split = False
        if SPLIT:
            split = splits > 1
            if split:
                part = parts + item * (BLOCK_M * BLOCK_N)
                _store_tile(
                    part, BLOCK_N, total, 0, 0, BLOCK_M, BLOCK_N, BLOCK_M, False, False, BLOCK_M,
                    BLOCK_N,
                )  # fmt: skip
        if not split:
            _store_tile(
                out, out_stride, total, m, n, rows, out_columns, live_rows, ACCUMULATE, ZERO_DEAD,
                BLOCK_M, BLOCK_N,
            )  # fmt: skip

    if ZERO_DEAD:
        zeros = tl.zeros((BLOCK_M, BLOCK_N), out.dtype.element_ty)
        for tile in range(tiles + program, tl.cdiv(rows, BLOCK_M) * tiles_n, programs):
            row = (tile // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
            column = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
            pointers = out + row.to(tl.int64)[:, None] * out_stride + column[None, :]
            inside = (row < rows)[:, None] & (column < out_columns)[None, :]
            tl.store(pointers, zeros, mask=inside)


@triton.jit(
    do_not_specialize=["programs", "first_row", "rows", "columns", "depth", "out_stride"],
    do_not_specialize_on_alignment=["live", "out"],
)
def merge_parts_kernel(
    parts,  # of product_kernel with SPLIT and LIVE = ROWS
    programs,  # it had
    out,
    live,
    first_row,
    rows,
    columns,
    depth,
    out_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    STRIP: tl.constexpr,  # rows of one program
):
    """Add the parts of each tile in order; does nothing where tiles were not split."""
    live_rows = tl.maximum(tl.minimum(tl.load(live) - first_row, rows), 0)
    tiles_m, tiles_n = tl.cdiv(live_rows, BLOCK_M), tl.cdiv(columns, BLOCK_N)
    splits = _splits(tiles_m * tiles_n, depth, programs, BLOCK_K)
    tile, strip = tl.program_id(0), tl.program_id(1)
    if (splits > 1) & (tile < tiles_m * tiles_n):
        m, n = _origin(tile, tiles_m, tiles_n, GROUP, BLOCK_M, BLOCK_N)
        row = strip * STRIP + tl.arange(0, STRIP)[:, None]
        column = tl.arange(0, BLOCK_N)[None, :]
        total = tl.zeros((STRIP, BLOCK_N), tl.float32)
        for part in range(splits):
            place = (tile * splits + part) * (BLOCK_M * BLOCK_N)
            total += tl.load(parts + place + row * BLOCK_N + column)
        row, column = m + row, n + column
        total = tl.where(row < live_rows, total, 0.0)
        inside = (row < rows) & (column < columns)
        pointers = out + row.to(tl.int64) * out_stride + column
        tl.store(pointers, total.to(out.dtype.element_ty), mask=inside)
