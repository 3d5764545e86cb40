"""What `commops.calls` is for arrays that move, for those that are reduced on the way."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import numpy as np

from commops._core import native
from commops.arguments import (
    Counts,
    array_of,
    block_shape,
    check_out,
    counts_of,
    elements_of,
    packed,
    rank_of,
    target_of,
)
from commops.calls import BY_FUNCTION, Call, Place, call_of, checksum
from commops.dtypes import Array, code_of

__all__ = ["Op", "reduce_scatter", "reduction"]

Function: TypeAlias = Callable[[Array, Array], Array]

Op: TypeAlias = str | Function
"""Name of a reduction, or an associative function of two arrays."""

_OP: dict[str, int] = native.OPS
_BUILTINS = {sum: "sum", min: "min", max: "max"}


def _number_of(op: object, dtype: np.dtype[Any], code: int) -> int:
    """Return the core's number of a named reduction that is defined for the dtype."""
    if not isinstance(op, str):
        raise TypeError(f"op must be a name or a function of two arrays, not {type(op).__name__}")
    number = _OP.get(op)
    if number is None:
        raise ValueError(f"op must be one of {', '.join(_OP)}, or a function of two arrays, not {op!r}")
    if not native.reducible(code, number):
        raise TypeError(f"op {op!r} has no meaning for dtype {dtype} of x")
    return number


def _function_of(op: Function) -> Function:
    """Return a function of two arrays. Python's own sum takes them too, for something else."""
    if isinstance(op, Hashable) and op in _BUILTINS:
        raise TypeError(f"op must not be Python's built-in {_BUILTINS[op]}: pass {_BUILTINS[op]!r}, its name")
    return op


def reduction(at: Place, kind: str, x: object, op: Op, out: object, root: object = 0) -> Call:
    """Check an allreduce, reduce, scan or exscan."""
    array = array_of(x)
    code = code_of(array.dtype)
    root = rank_of(root, at.size)
    if callable(op):
        return _folded(at, kind, array, code, _function_of(op), out, root)
    number = _number_of(op, array.dtype, code)
    if kind == "reduce" and at.rank != root:
        return call_of(
            kind, lambda _: None, op=number, dtype=code, root=root, send=packed(array), count=array.size,
            shape=array.shape,
        )  # fmt: skip
    target, finish = target_of(out, array.shape, array.dtype, array, in_place=True)
    if kind == "exscan" and at.rank == 0:
        finish = _filled(target, _identity(op, array.dtype), finish)
    return call_of(
        kind, finish, op=number, dtype=code, root=root, send=packed(array), out=target, count=array.size,
        shape=array.shape,
    )  # fmt: skip


def _filled(target: Array, value: Any, finish: Callable[[Any], Array]) -> Callable[[Any], Array]:
    """Put a value where the core has nothing to write. At the end: it may be x as well, which is sent."""

    def fill(answer: object) -> Array:
        target[...] = value
        return finish(answer)

    return fill


def _identity(op: str, dtype: np.dtype[Any]) -> Any:
    """Return what rank 0 gets of an exscan: the reduction of nothing."""
    if op in ("sum", "bor", "bxor", "lor", "lxor"):
        return np.zeros((), dtype)
    if op in ("prod", "land"):
        return np.ones((), dtype)
    if op == "band":
        return np.ones((), dtype) if dtype.kind == "b" else np.invert(np.zeros((), dtype))
    if op == "mean":
        return np.full((), np.nan, dtype)
    if op in ("min", "max"):
        return np.full((), _extreme(dtype, greatest=op == "min"), dtype)
    raise NotImplementedError(f"nobody has said what the exscan of no arrays is for op {op!r}")


def _extreme(dtype: np.dtype[Any], *, greatest: bool) -> Any:
    """Return the greatest or the least value that a dtype has."""
    if dtype.kind == "b":
        return greatest
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return limits.max if greatest else limits.min
    return np.inf if greatest else -np.inf


def reduce_scatter(at: Place, x: object, op: Op, out: object, counts: Counts | None) -> Call:
    """Check a reduce_scatter."""
    array = array_of(x)
    code = code_of(array.dtype)
    rows = counts_of(counts, at.size)
    shape = block_shape(array, at.size, rows, at.rank, "reduce_scatter")
    if callable(op):
        start = at.rank * shape[0] if rows is None else int(rows[: at.rank].sum())
        return _folded_block(at, array, code, _function_of(op), out, slice(start, start + shape[0]), rows)
    number = _number_of(op, array.dtype, code)
    target, finish = target_of(out, shape, array.dtype, array)
    return call_of(
        "reduce_scatter", finish, op=number, dtype=code, send=packed(array), out=target, count=target.size,
        counts=elements_of(rows, array.shape), shape=array.shape, alike=checksum(rows),
    )  # fmt: skip


# ------------------------------------------------------------------ by a function of the caller's


def _folded(
    at: Place,
    kind: str,
    array: Array,
    code: int,
    op: Function,
    out: object,
    root: int,
    rows: Array | None = None,
) -> Call:
    """Gather the whole arrays, and fold those in rank order.

    The function sees whole arrays, so it need not be elementwise (a matrix product is fine).
    """
    to_all = kind != "reduce"
    blocks = np.empty((at.size, *array.shape), array.dtype) if to_all or at.rank == root else None
    target = None if out is None or blocks is None else check_out(out, array.shape, array.dtype)

    def finish(_: object) -> Any:
        if blocks is None:
            return None
        last = {"scan": at.rank + 1, "exscan": at.rank}.get(kind, at.size)
        if last == 0:
            return target
        total: Any = blocks[0]
        for block in blocks[1:last]:
            total = op(total, block)
        if not isinstance(total, np.ndarray | np.generic):
            raise TypeError(f"op must return an array, not {type(total).__name__}")
        total = np.asarray(total)
        if total.shape != array.shape or total.dtype != array.dtype:
            raise TypeError(
                f"op must return what it is given, {array.dtype} of shape {array.shape},"
                f" not {total.dtype} of shape {total.shape}"
            )
        if target is None:
            return total.copy() if last == 1 else total
        target[...] = total
        return target

    return call_of(
        "allgather" if to_all else "gather", finish, op=BY_FUNCTION[kind], dtype=code, root=root,
        send=packed(array), out=blocks, count=array.size, shape=array.shape, alike=checksum(rows),
    )  # fmt: skip


def _folded_block(
    at: Place, array: Array, code: int, op: Function, out: object, own: slice, rows: Array | None
) -> Call:
    """Do the same, and keep one's own block of the result."""
    target = None
    if out is not None:
        target = check_out(out, (own.stop - own.start, *array.shape[1:]), array.dtype)
    arguments, folded = _folded(at, "reduce_scatter", array, code, op, None, 0, rows)

    def finish(got: object) -> Array:
        block: Array = folded(got)[own]
        if target is None:
            return block.copy()
        target[...] = block
        return target

    return arguments, finish
