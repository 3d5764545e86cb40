"""From a collective's arguments to what the core is asked, and from its answer to the result.

Each function here checks the arguments of one collective that moves arrays on this rank, before anything
moves, and returns a `Call`. Whether the call then blocks or not makes no difference to them. Those that
reduce are in `commops.reduction_calls`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from zlib import crc32

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
    receiver_of,
    rows_of,
    target_of,
)
from commops.dtypes import Array, code_of, dtype_of

__all__ = [
    "BARRIER",
    "BY_FUNCTION",
    "DUP",
    "EMPTY",
    "OBJECTS",
    "OBJECTS_ALLREDUCE",
    "OBJECTS_REDUCE",
    "SPLIT",
    "Call",
    "Place",
    "call_of",
    "checksum",
]

Call: TypeAlias = tuple[tuple[Any, ...], Callable[[Any], Any]]
"""A checked call: the arguments of the core, and what makes the result from what was allocated, or None."""

_KIND: dict[str, int] = native.KINDS
_MEANING: dict[str, int] = native.MEANINGS

OBJECTS = _MEANING["objects"]
BY_FUNCTION = {
    kind: _MEANING[f"{kind} by a function"]
    for kind in ("allreduce", "reduce", "reduce_scatter", "scan", "exscan")
}
OBJECTS_ALLREDUCE = _MEANING["allreduce of objects"]
OBJECTS_REDUCE = _MEANING["reduce of objects"]
SPLIT, DUP, EMPTY = _MEANING["split"], _MEANING["dup"], _MEANING["empty"]
"""The `op` of a call that moves arrays: what these stand for, so that it fits no other call (cmo_meaning)."""

_UINT8 = code_of(np.dtype(np.uint8))


class Place:
    """Who makes the call."""

    __slots__ = ("rank", "size")

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size


def call_of(
    kind: str,
    finish: Callable[[Any], Any],
    *,
    op: int = 0,
    dtype: int = _UINT8,
    root: int = 0,
    send: Array | None = None,
    out: Array | None = None,
    count: int = 0,
    counts: Array | None = None,
    recv_counts: Array | None = None,
    exchange: bool = False,
    shape: tuple[int, ...] | None = None,
    alike: int = 0,
    allocate: Callable[..., Array] | None = None,
) -> Call:
    """Put down what the core is asked (cmo_call, in src/_native/comm/call.h), as the binding unpacks it."""
    return (
        (
            _KIND[kind],
            op,
            dtype,
            root,
            send,
            out,
            count,
            counts,
            recv_counts,
            exchange,
            shape,
            alike,
            allocate,
        ),
        finish,
    )


def checksum(rows: Array | None) -> int:
    """Return a number by which ranks know that they pass the same rows, also where these have no elements."""
    return 0 if rows is None else 1 + crc32(rows.tobytes())


BARRIER: Call = call_of("barrier", lambda _: None)


def broadcast(at: Place, x: object, root: object) -> Call:
    """Check a broadcast."""
    root = rank_of(root, at.size)
    if x is None:
        if at.rank == root:
            raise TypeError("x must be an array at root, not None")
        return call_of("broadcast", lambda got: got, root=root, allocate=_new)
    array = array_of(x)
    code = code_of(array.dtype)
    if at.rank == root:
        send = packed(array)
        result = x if isinstance(x, np.ndarray) else array
        return call_of(
            "broadcast", lambda _: result, dtype=code, root=root, send=send, out=send, count=array.size,
            shape=array.shape,
        )  # fmt: skip
    if isinstance(x, np.generic):
        raise TypeError(f"x must be an array that can receive root's, or None, not {x!r}")
    target, finish = target_of(receiver_of(x, "x"), array.shape, array.dtype)
    return call_of(
        "broadcast", finish, dtype=code, root=root, out=target, count=array.size, shape=array.shape
    )


def scatter(at: Place, x: object, root: object, out: object, counts: Counts | None) -> Call:
    """Check a scatter."""
    root = rank_of(root, at.size)
    rows = counts_of(counts, at.size)
    if at.rank != root:
        if out is None:
            return call_of("scatter", lambda got: got, root=root, allocate=_new)
        block = receiver_of(out)
        code = code_of(block.dtype, "out")
        target, finish = target_of(block, block.shape, block.dtype)
        return call_of(
            "scatter", finish, dtype=code, root=root, out=target, count=block.size, shape=block.shape
        )
    if x is None:
        raise TypeError("x must be an array at root, not None")
    array = array_of(x)
    shape = block_shape(array, at.size, rows, at.rank, "scatter")
    counts = elements_of(rows, array.shape)
    if rows is not None and 0 in array.shape[1:]:  # the core wants rows where these have no elements
        counts = np.ascontiguousarray(rows) if at.size > 1 else None
    code = code_of(array.dtype)
    target, finish = target_of(out, shape, array.dtype, array)
    return call_of(
        "scatter", finish, dtype=code, root=root, send=packed(array), out=target, count=target.size,
        counts=counts, shape=array.shape,
    )  # fmt: skip


def gather(at: Place, kind: str, x: object, root: object, out: object, counts: Counts | None) -> Call:
    """Check a gather or an allgather."""
    array = array_of(x)
    code = code_of(array.dtype)
    root = rank_of(root, at.size)
    rows = counts_of(counts, at.size)
    if rows is None:
        shape = (at.size * array.shape[0], *array.shape[1:]) if array.ndim else (at.size,)
    else:
        own = rows_of(array, kind)
        if int(rows[at.rank]) != own:
            raise ValueError(
                f"{kind}: counts say {int(rows[at.rank])} rows for rank {at.rank} and axis 0 of x has {own}"
            )
        shape = (int(rows.sum()), *array.shape[1:])
    elements = elements_of(rows, array.shape)
    if kind == "gather" and at.rank != root:
        return call_of(
            kind, lambda _: None, dtype=code, root=root, send=packed(array), count=array.size,
            counts=elements, shape=array.shape, alike=checksum(rows),
        )  # fmt: skip
    target, finish = target_of(out, shape, array.dtype)
    send = packed(array)
    if out is not None and np.may_share_memory(target, send):
        send = send.copy()  # smaller than the result, which is written while x is still being read
    return call_of(
        kind, finish, dtype=code, root=root, send=send, out=target, count=array.size, counts=elements,
        shape=array.shape, alike=checksum(rows),
    )  # fmt: skip


def alltoall(
    at: Place, x: object, out: object, send_counts: Counts | None, recv_counts: Counts | None
) -> Call:
    """Check an alltoall."""
    array = array_of(x)
    code = code_of(array.dtype)
    send_rows = counts_of(send_counts, at.size, "send_counts")
    recv_rows = counts_of(recv_counts, at.size, "recv_counts")
    if send_rows is None and recv_rows is not None:
        raise ValueError("alltoall: recv_counts is given, so send_counts must be too")
    block_shape(array, at.size, send_rows, 0, "alltoall", "send_counts")
    if send_rows is None:
        target, finish = target_of(out, array.shape, array.dtype, array)
        count = array.size // at.size
        return call_of(
            "alltoall", finish, dtype=code, send=packed(array), out=target, count=count, shape=array.shape
        )
    if out is not None:
        if recv_rows is not None:
            rows = int(recv_rows.sum())
        else:
            rows = out.shape[0] if isinstance(out, np.ndarray) and out.ndim else 0
        check_out(out, (rows, *array.shape[1:]), array.dtype)
    if 0 in array.shape[1:]:
        # Counts travel in elements, and these rows have none: a byte stands for each of them.
        stand_in = np.zeros(array.shape[0], np.uint8)
        arguments, counted = _alltoall_counted(
            stand_in, _UINT8, None, send_rows, recv_rows, array.shape, alike=1 + code
        )

        def shaped(got: Array) -> Array:
            shape = (counted(got).shape[0], *array.shape[1:])
            return np.empty(shape, array.dtype) if out is None else check_out(out, shape, array.dtype)

        return arguments, shaped
    return _alltoall_counted(array, code, out, send_rows, recv_rows, array.shape)


def _alltoall_counted(
    array: Array,
    code: int,
    out: Any,
    send_rows: Array,
    recv_rows: Array | None,
    shape: tuple[int, ...],
    *,
    alike: int = 0,
) -> Call:
    """Make an alltoall whose blocks differ: what comes from whom is learned on the way."""
    row = math.prod(array.shape[1:])
    problem: list[str] = []

    def allocate(dtype: int, came_as: object, counts: list[int], *_: object) -> Array:
        came = [n // row for n in counts]
        if recv_rows is not None and came != recv_rows.tolist():
            problem.append(f"alltoall: recv_counts are {recv_rows.tolist()} and the ranks sent {came} rows")
        elif out is not None and out.shape[0] != sum(came):
            problem.append(f"alltoall: out must have {sum(came)} rows along axis 0, not {out.shape[0]}")
        elif out is not None and out.flags.c_contiguous and not np.may_share_memory(out, array):
            return out  # type: ignore[no-any-return]
        return np.empty((sum(came), *array.shape[1:]), array.dtype)

    def finish(got: Array) -> Array:
        # Only now, when what was sent has been received: the communicator stays usable.
        if problem:
            raise ValueError(problem[0])
        if out is None or got is out:
            return got
        out[...] = got
        return out  # type: ignore[no-any-return]

    return call_of(
        "alltoall", finish, dtype=code, send=packed(array), counts=elements_of(send_rows, array.shape),
        exchange=True, shape=shape, alike=alike, allocate=allocate,
    )  # fmt: skip


# ------------------------------------------------------------------ bytes, for Python objects


def of_objects(call: Call) -> Call:
    """Mark a call whose bytes are packed objects."""
    (kind, _, *rest), finish = call
    return (kind, OBJECTS, *rest), finish


def gather_bytes(
    kind: str, data: Array, root: int, finish: Callable[[Array | None, list[int]], Any], op: int = OBJECTS
) -> Call:
    """Make a gather or allgather of bytes whose sizes the ranks do not know of each other.

    `finish` is given the joined bytes, None where there are none, and their sizes.
    """
    sizes: list[int] = []

    def allocate(dtype: int, shape: object, counts: list[int], *_: object) -> Array:
        sizes.extend(counts)
        return np.empty(sum(counts), np.uint8)

    return call_of(
        kind, lambda got: finish(got, sizes), op=op, root=root, send=data, count=data.size,
        exchange=True, allocate=allocate,
    )  # fmt: skip


def alltoall_bytes(data: Sequence[Array], finish: Callable[[Array, list[int]], Any]) -> Call:
    """Make an alltoall of bytes whose sizes the ranks do not know of each other."""
    sizes: list[int] = []

    def allocate(dtype: int, shape: object, counts: list[int], *_: object) -> Array:
        sizes.extend(counts)
        return np.empty(sum(counts), np.uint8)

    return call_of(
        "alltoall", lambda got: finish(got, sizes), op=OBJECTS, send=np.concatenate(data),
        counts=np.array([each.size for each in data], np.uint64), exchange=True, allocate=allocate,
    )  # fmt: skip


def _new(dtype: int, shape: tuple[int, ...], *_: object) -> Array:
    """Make the array that a rank receives which did not pass one."""
    return np.empty(shape, dtype_of(dtype))
