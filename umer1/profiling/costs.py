"""How many FLOPs an operator of aten has to do and how many bytes it has to move, from the shapes of its arguments.

The least that the operator's definition asks for: every input read once, every output written once, whatever the
caches do. A multiplication with its addition is 2 FLOPs, an element of anything else 1; causal attention is half of
full attention. Views cost nothing; what is not listed has no cost that is known.
Legend: a product is [m, k] x [k, n].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

ITEM_BYTES = {
    "float": 4, "double": 8, "c10::BFloat16": 2, "c10::Half": 2, "long int": 8, "long": 8, "int": 4, "short int": 2,
    "short": 2, "signed char": 1, "unsigned char": 1, "bool": 1, "c10::complex<float>": 8, "c10::complex<double>": 16,
}  # fmt: skip
DTYPE_NAMES = {"float": "float32", "double": "float64", "c10::BFloat16": "bfloat16", "c10::Half": "float16"}  # fmt: skip
LIST = "TensorList"


class Argument(NamedTuple):
    """A tensor argument: its shape, bytes per element, dtype as torch names it.

    A list of tensors is one argument, whose shape is the number of all their elements.
    """

    shape: tuple[int, ...]
    item: int
    dtype: str = ""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * self.item


class Cost(NamedTuple):
    """`dtype` of the products whose speed bounds the FLOPs; "" where there is no product."""

    flop: float
    bytes: float
    dtype: str = ""


def argument(shape: list, dtype: str, bytes_of_lists: int) -> Argument | None:
    """From what a trace says of one argument; None: not a tensor, or a list whose shapes it does not say."""
    if dtype == LIST:
        if not shape or not isinstance(shape[0], list):
            return None
        return Argument((sum(map(math.prod, shape)),), bytes_of_lists)
    if dtype not in ITEM_BYTES:
        return None
    return Argument(tuple(shape), ITEM_BYTES[dtype], DTYPE_NAMES.get(dtype, dtype))


def aten_cost(name: str, arguments: tuple[Argument | None, ...], constants: tuple) -> Cost | None:
    """Of one call; None where there is no model for it, or its arguments are not known."""
    base = name.removeprefix("aten::")
    if base == name:
        return None
    tensors = [each for each in arguments if each is not None]
    formula = _FORMULAS.get(base)
    if formula is not None:
        try:
            return formula(arguments, constants)
        except (AttributeError, IndexError, TypeError, ValueError):  # an unknown argument
            return None
    plain = base.rstrip("_")
    if plain in _NO_WORK or base in _NO_WORK:
        return Cost(0, 0)
    if not tensors:
        return None
    if plain in _ELEMENTWISE:
        return _elementwise(tensors)
    if plain in _REDUCTIONS:
        return Cost(tensors[0].count, tensors[0].bytes)
    if plain in _PASSES:
        return Cost(tensors[0].count, _PASSES[plain] * tensors[0].bytes)
    return None


def product(m: int, k: int, n: int, left: int, right: int, out: int, dtype: str, batch: int = 1) -> Cost:  # fmt: skip
    """left, right, out: bytes per element."""
    traffic = m * k * left + k * n * right + m * n * out
    return Cost(2.0 * batch * m * k * n, float(batch * traffic), dtype)


def _matrices(first: int) -> Callable:
    """`first`: where the left factor stands; what stands before it is added."""

    def cost(arguments, constants) -> Cost:
        left, right = arguments[first : first + 2]
        outs = [each for each in arguments[first + 2 :] if each is not None]
        item = outs[-1].item if outs else left.item
        *batch, m, k = left.shape
        n = right.shape[-1]
        made = product(m, k, n, left.item, right.item, item, left.dtype, math.prod(batch))
        return made._replace(bytes=made.bytes + sum(each.bytes for each in arguments[:first]))

    return cost


def _vector(arguments, constants) -> Cost:
    """mv and dot."""
    matrix, vector = arguments[:2]
    return Cost(2 * matrix.count, matrix.bytes + vector.bytes, matrix.dtype)


def attention(
    queries: int,
    keys: int,
    heads: int,
    size: int,
    item: int,
    dtype: str,
    *,
    causal: bool,
    products: float,
    key_heads: int,  # fmt: skip
) -> Cost:
    """`products`: 2 forward, 5 backward; queries and keys of all heads' sequences, in total and of each."""
    flop = 2 * products * heads * queries * keys * size * (0.5 if causal else 1.0)
    sides = 2 * heads * queries + 2 * key_heads * keys  # query, output; key, value
    return Cost(flop, sides * size * item * (1 if products == 2 else 2), dtype)


def _sdpa(first: int, products: float, causal_at: int) -> Callable:
    """[B, heads, S, D] from argument `first` on; `causal_at`: where the flag stands."""

    def cost(arguments, constants) -> Cost:
        query, key = arguments[first : first + 2]
        batch, heads, length, size = query.shape
        key_heads, keys = key.shape[1:3]
        made = attention(
            length, keys, heads, size, query.item, query.dtype,
            causal=_is_true(constants, causal_at), products=products, key_heads=key_heads,
        )  # fmt: skip
        return Cost(made.flop * batch, made.bytes * batch, made.dtype)

    return cost


def _varlen(first: int, products: float, longest_at: int) -> Callable:
    """[T, heads, D] from argument `first` on: exact where all sequences are as long as the longest."""

    def cost(arguments, constants) -> Cost:
        query, key = arguments[first : first + 2]
        tokens, heads, size = query.shape
        longest = int(constants[longest_at])
        made = attention(
            tokens, longest, heads, size, query.item, query.dtype,
            causal=_is_true(constants, longest_at + 2), products=products, key_heads=0,
        )  # fmt: skip
        traffic = (2 * query.bytes + 2 * key.bytes) * (1 if products == 2 else 2)
        return made._replace(bytes=traffic)

    return cost


def _is_true(constants: tuple, place: int) -> bool:
    return len(constants) > place and str(constants[place]) in ("True", "1")


def _elementwise(tensors: list[Argument]) -> Cost:
    """Inputs read, the result written; an operator in place reads what it overwrites."""
    tensors = [each for each in tensors if each.shape] or tensors  # without numbers
    rank = max(len(each.shape) for each in tensors)
    shapes = [(1,) * (rank - len(each.shape)) + each.shape for each in tensors]
    # a size of 1 is stretched, to 0 too
    count = math.prod(next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes))
    item = max((each.item for each in tensors if each.count == count), default=tensors[0].item)
    return Cost(count, sum(each.bytes for each in tensors) + count * item)


def _copy(arguments, constants) -> Cost:
    target, source = arguments[:2]
    return Cost(0, target.bytes + source.bytes)


def _fill(arguments, constants) -> Cost:
    return Cost(0, arguments[0].bytes)


def _taken(index: int) -> Callable:
    """Rows of argument 0 by an index of the last dimension but one: embedding."""

    def cost(arguments, constants) -> Cost:
        return Cost(0, 2 * arguments[index].count * arguments[0].shape[-1] * arguments[0].item)

    return cost


def _index_select(arguments, constants) -> Cost:
    source, dimension, index = arguments[0], int(constants[1]), arguments[2]
    return Cost(0, 2 * source.bytes // max(source.shape[dimension], 1) * index.count)


def _index_fill(arguments, constants) -> Cost:
    target, dimension, index = arguments[0], int(constants[1]), arguments[2]
    return Cost(0, target.bytes // max(target.shape[dimension], 1) * index.count)


def _gather(arguments, constants) -> Cost:
    return Cost(0, arguments[2].count * (2 * arguments[0].item + arguments[2].item))


def _embedding_backward(arguments, constants) -> Cost:
    """The gradient is read, and added to a table of zeros that is written first."""
    gradient = arguments[0]
    return Cost(gradient.count, 3 * gradient.bytes + int(constants[2]) * gradient.shape[-1] * gradient.item)  # fmt: skip


def _source_rows(place: int, times: int) -> Callable:
    """Rows of argument `place` go to argument 0."""
    return lambda arguments, constants: Cost(0, times * arguments[place].bytes)


def _adam(arguments, constants) -> Cost:
    """Weights and both moments are read and written, gradients read."""
    return Cost(12 * arguments[0].count, 7 * arguments[0].bytes)


_FORMULAS: dict[str, Callable[[tuple, tuple], Cost]] = {
    "mm": _matrices(0),
    "addmm": _matrices(1),
    "addmm_": _matrices(1),
    "bmm": _matrices(0),
    "baddbmm": _matrices(1),
    "mv": _vector,
    "dot": _vector,
    "_scaled_dot_product_flash_attention_for_cpu": _sdpa(0, 2, 4),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _sdpa(1, 5, 7),
    "_scaled_dot_product_flash_attention": _sdpa(0, 2, 4),
    "_scaled_dot_product_flash_attention_backward": _sdpa(1, 5, 11),
    "_scaled_dot_product_efficient_attention": _sdpa(0, 2, 6),
    "_scaled_dot_product_efficient_attention_backward": _sdpa(1, 5, 11),
    "_scaled_dot_product_cudnn_attention": _sdpa(0, 2, 6),
    "_flash_attention_forward": _varlen(0, 2, 6),
    "_flash_attention_backward": _varlen(1, 5, 9),
    "copy_": _copy,
    "fill_": _fill,
    "zero_": _fill,
    "uniform_": _fill,
    "normal_": _fill,
    "embedding": _taken(1),
    "embedding_dense_backward": _embedding_backward,
    "index_select": _index_select,
    "index_fill_": _index_fill,
    "gather": _gather,
    "cat": lambda arguments, constants: Cost(0, 2 * arguments[0].bytes),
    "stack": lambda arguments, constants: Cost(0, 2 * arguments[0].bytes),
    "index_copy_": _source_rows(3, 2),
    "_index_put_impl_": _source_rows(2, 2),
    "index_add_": _source_rows(3, 3),
    "_fused_adamw_": _adam,
    "_foreach_norm": lambda arguments, constants: Cost(2 * arguments[0].count, arguments[0].bytes),
    "_foreach_mul_": lambda arguments, constants: Cost(arguments[0].count, 2 * arguments[0].bytes),
}
_ELEMENTWISE = frozenset(
    "add sub rsub mul div neg exp exp2 expm1 log log1p sigmoid silu gelu sqrt rsqrt reciprocal pow square where "
    "masked_fill clamp clamp_min clamp_max softplus tanh relu maximum minimum addcmul addcdiv abs bitwise_and "
    "bitwise_or bitwise_not logical_and logical_or logical_not eq ne lt gt le ge nan_to_num polar sgn sign cos sin "
    "silu_backward gelu_backward sigmoid_backward softplus_backward lerp fmod remainder".split()
)
_REDUCTIONS = frozenset(
    "sum mean amax amin max min argmax argmin prod any all norm linalg_vector_norm var std nonzero "
    "_local_scalar_dense".split()
)
# they say what memory looks like, ask for some, or leave all work to operators they call
_NO_WORK = frozenset(
    "view transpose t permute expand as_strided reshape slice select unsqueeze squeeze split split_with_sizes chunk "
    "detach alias narrow unflatten flatten unbind unfold view_as view_as_complex view_as_real resolve_conj conj _conj "
    "numpy_T empty empty_like empty_strided new_empty resize resize_as to _to_copy contiguous clone type_as matmul "
    "linear scaled_dot_product_attention item zeros zeros_like ones ones_like full full_like new_zeros new_full "
    "arange index_put".split()
)
# how often the size of the first input goes through memory
_PASSES = {
    "_softmax": 2,
    "_log_softmax": 2,
    "_softmax_backward_data": 3,
    "_log_softmax_backward_data": 3,
    "cumsum": 2,
    "sort": 4,
    "topk": 1,
    "native_layer_norm": 2,
    "native_layer_norm_backward": 3,
}
