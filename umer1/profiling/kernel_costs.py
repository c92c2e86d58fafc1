"""FLOPs and bytes of umer1_kernels' own operators and of its Triton kernels, by the rules of `costs`.

Legend: R rows, C candidates, D dimension, B sequences, H hidden size. Exponentials are not counted: what bounds these
are products and memory. Rows that the device knows not to count are left out where the launch says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable

from umer1.profiling.costs import Argument, Cost, product

BFLOAT16, FLOAT32, INT64 = 2, 4, 8


def operator_cost(name: str, arguments: tuple[Argument | None, ...]) -> Cost | None:
    """Of one call of a compiled operator of umer1_kernels, without the aten operators it calls."""
    formula = _OPERATORS.get(name.removeprefix("umer1_kernels::"))
    if formula is None or arguments[0] is None:
        return None
    return formula(arguments)


def kernel_cost(name: str, values: dict[str, object]) -> Cost | None:
    """Of one launch of a Triton kernel; `values`: its arguments, tensors as `Argument`, `live` as a number."""
    formula = KERNELS.get(name)
    return None if formula is None else formula(values)


def _passes(reads: int, writes: int = 0) -> Callable:
    """Of the first argument, [R, C]."""

    def cost(arguments) -> Cost:
        return Cost(arguments[0].count, (reads + writes) * arguments[0].bytes)

    return cost


def _bf16_product(written: int) -> Callable:
    """rows [R, D] x candidates [C, D]; `written`: bytes that stay of each logit."""

    def cost(arguments) -> Cost:
        (rows, depth), columns = arguments[0].shape, arguments[1].shape[0]
        return product(rows, depth, columns, BFLOAT16, BFLOAT16, written, "bfloat16")

    return cost


def _packed_product(arguments) -> Cost:
    """rows [T, K] x packed [panels, pairs, 64, 2]; written in the rows' dtype."""
    rows, depth = arguments[0].shape
    columns = arguments[1].count // depth
    return product(rows, depth, columns, BFLOAT16, BFLOAT16, BFLOAT16, "bfloat16")


def _gathered(arguments) -> Cost:
    """hidden [R, H], ids, begin [B]: the rows found, and their vectors; the search is not counted."""
    hidden, begin = arguments[0], arguments[2]
    numbers = begin.count * hidden.shape[1]
    return Cost(2 * numbers, numbers * (hidden.item + max(FLOAT32, hidden.item)))


def _scattered(arguments) -> Cost:
    """hidden_grad [R, H], grad [B, H], vectors [B, H]: the rows of the sequences alone."""
    target, gradient, vectors = arguments[:3]
    return Cost(4 * gradient.count, gradient.bytes + vectors.bytes + gradient.count * target.item)


def _similarities(arguments) -> Cost:
    """of_query [R, C] and of_target [C, R]: every similarity is read once for each side."""
    return Cost(2 * arguments[0].count, arguments[0].bytes + arguments[1].bytes)


def _reward_from_vectors(arguments) -> Cost:
    """query and target [P, G, d]: one product of all with all; the similarities stay on the chip."""
    query, target = arguments[:2]
    rows, columns, depth = (
        query.count // query.shape[-1],
        target.count // target.shape[-1],
        query.shape[-1],
    )
    return product(rows, depth, columns, query.item, target.item, 0, query.dtype)


def _small_contrastive(products: int) -> Callable:
    """query and target of gen, then of disc: so many products of each pair, and vectors read or written for them.

    The operator that makes the losses may make the gradients in the same launch: a trace does not say so.
    """

    def cost(arguments) -> Cost:
        pairs = [pair for pair in zip(arguments[0:4:2], arguments[1:4:2]) if None not in pair]
        # the gradient of the logits has as many pairs as were multiplied, crossed ones included
        logits = arguments[4] if products == 2 and len(arguments) > 4 else None
        repeats = 1 if logits is None else logits.shape[0] / len(pairs)
        flop = products * repeats * sum(2 * q.count * t.shape[0] for q, t in pairs)
        vectors = products * sum(q.bytes + t.bytes for q, t in pairs)
        read = 0 if logits is None else logits.bytes
        return Cost(float(flop), float(vectors + read), arguments[0].dtype)

    return cost


def _decoding_step(arguments) -> Cost:
    """hidden [B, H] third: ids, slots and flags of every row; which rows are taken only the device knows."""
    return Cost(0, arguments[2].shape[0] * (2 * INT64 + 1))


def _appended(arguments) -> Cost:
    """key and value [T, Hkv, D]: read, and written to their pages."""
    return Cost(0, 2 * (arguments[0].bytes + arguments[1].bytes))


def _gated(arguments) -> Cost:
    """[gate | up] [T, 2F] -> [T, F]."""
    return Cost(arguments[0].count, arguments[0].bytes * 3 // 2)


_OPERATORS: dict[str, Callable[[tuple], Cost]] = {
    "row_pools": _passes(1),
    "column_pools": _passes(1),
    "softmax_gradient_": _passes(1, 1),
    "bf16_pools": _bf16_product(0),
    "bf16_keep": _bf16_product(BFLOAT16),
    "bf16_kept_gradient_": _passes(1, 1),
    "bf16_gradient_": _bf16_product(BFLOAT16),
    "group_reward": _similarities,
    "group_reward_from_vectors": _reward_from_vectors,
    "gather_hidden": _gathered,
    "gather_hidden_backward_": _scattered,
    "generation_step_": _decoding_step,
    "rms_norm": _passes(1, 1),
    "swiglu": _gated,
    "quick_gelu": _passes(1, 1),
    "rotate_heads_": _passes(1, 1),
    # packed_attention and decode_attention have none: how many keys a query has is in tensors' values
    "packed_linear": _packed_product,
    "append_kv_": _appended,
    "sample_tokens": _passes(1),
    "small_dual_info_nce": _small_contrastive(1),
    "small_dual_info_nce_gradient": _small_contrastive(2),
}


def _live_rows(values: dict) -> int:
    live = values.get("live")
    rows = values["rows"]
    return rows if live is None else max(0, min(live - values["first_row"], rows))


def _matrix_product(values: dict) -> Cost:
    """left [M, K] x right [K, N] -> out; which of M and K the device counts is LIVE."""
    rows, depth = values["rows"], values["depth"]
    if values["LIVE"] == 1:
        rows = _live_rows(values)
    elif values["LIVE"] == 2:
        depth = _live_rows({**values, "rows": depth})
    left, right, out = values["left"], values["right"], values["out"]
    writes = out.item * (2 if values["ACCUMULATE"] else 1)
    return product(rows, depth, values["columns"], left.item, right.item, writes, left.dtype)


def _read_logits(values: dict) -> Cost:
    numbers = _live_rows(values) * values["columns"]
    return Cost(numbers, numbers * values["logits"].item)


def _gradient(values: dict) -> Cost:
    numbers, columns = _live_rows(values) * values["columns"], values["columns"]
    written = values["rows"] * columns * values["out"].item  # dead rows get zeros
    return Cost(numbers, numbers * values["logits"].item + written)


def _partials(values: dict) -> Cost:
    numbers = values["tiles"] * values["columns"]
    return Cost(numbers, 2 * numbers * values["part_best"].item)


def _places(values: dict) -> Cost:
    return Cost(0, values["count"] * (1 + 4 + INT64))


def _gathered_rows(values: dict) -> Cost:
    numbers = values["vectors"].count
    return Cost(2 * numbers, numbers * (values["hidden"].item + values["vectors"].item))


def _scattered_rows(values: dict) -> Cost:
    numbers, target = values["grad"].count, values["hidden_grad"].item
    return Cost(4 * numbers, numbers * (values["grad"].item + values["vectors"].item + target))


def _reward(values: dict) -> Cost:
    return Cost(values["similarity"].count, values["similarity"].bytes)


KERNELS: dict[str, Callable[[dict], Cost]] = {
    "product_kernel": _matrix_product,
    "row_pools_kernel": _read_logits,
    "column_partials_kernel": _read_logits,
    "merge_partials_kernel": _partials,
    "gradient_kernel": _gradient,
    "place_kernel": _places,
    "gather_kernel": _gathered_rows,
    "scatter_kernel": _scattered_rows,
    "scores_kernel": _reward,
}
