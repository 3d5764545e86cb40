"""From a call's arguments to what the core is asked, and from its answer to the result.

Each function here checks one collective's arguments on this rank, before anything moves, and returns a
`Call`: the arguments of the core, and what makes the result of its answer. Whether the call then blocks or
not makes no difference to them. Everything that is wrong is a TypeError or ValueError that names the argument
and both values.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from commops._core import native
from commops.dtypes import Array, code_of, dtype_of

__all__ = ["Call", "Counts", "Op", "Place"]

Op: TypeAlias = str | Callable[[Array, Array], Array]
"""Name of a reduction, or an associative function of two arrays."""

Counts: TypeAlias = Sequence[int] | Array
"""Rows of each rank along axis 0."""

_KIND: dict[str, int] = native.KINDS
_OP: dict[str, int] = native.OPS
_UINT8 = code_of(np.dtype(np.uint8))


@dataclass(frozen=True, slots=True)
class Place:
    """Who makes the call."""

    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call. `arguments` are those of the core; `finish` takes what was allocated, or None."""

    arguments: tuple[Any, ...]
    finish: Callable[[Any], Any]


def _call(
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
    allocate: Callable[..., Array] | None = None,
) -> Call:
    return Call(
        (_KIND[kind], op, dtype, root, send, out, count, counts, recv_counts, exchange, shape, allocate),
        finish,
    )


# ---------------------------------------------------------------------------------------- arguments


def array_of(x: object, name: str = "x") -> Array:
    """Return the array that was passed, or the 0-d array of a NumPy scalar."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(...)")
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    raise TypeError(f"{name} must be a NumPy array, not {type(x).__name__}: use np.asarray({name})")


def root_of(root: object, size: int, name: str = "root") -> int:
    """Return a rank that was passed."""
    if isinstance(root, bool) or not isinstance(root, int | np.integer):
        raise TypeError(f"{name} must be a rank, a whole number, not {root!r}")
    if not 0 <= root < size:
        raise ValueError(f"{name} must be a rank from 0 to {size - 1}, not {root}")
    return int(root)


def op_of(op: object, dtype: np.dtype[Any], code: int) -> int:
    """Return the core's number of a named reduction that is defined for the dtype."""
    if not isinstance(op, str):
        raise TypeError(f"op must be a name or a function of two arrays, not {type(op).__name__}")
    number = _OP.get(op)
    if number is None:
        raise ValueError(f"op must be one of {', '.join(_OP)}, or a function of two arrays, not {op!r}")
    if not native.reducible(code, number):
        raise TypeError(f"op {op!r} has no meaning for dtype {dtype} of x")
    return number


def counts_of(counts: Counts | None, size: int, name: str = "counts") -> Array | None:
    """Return rows per rank as an array of uint64, or None."""
    if counts is None:
        return None
    rows = np.asarray(counts)
    if rows.ndim != 1 or rows.shape[0] != size:
        raise ValueError(f"{name} must have one number for each of the {size} ranks, not shape {rows.shape}")
    if rows.dtype.kind not in "iu" and rows.size:
        raise TypeError(f"{name} must be whole numbers, not {rows.dtype}")
    if (rows < 0).any():
        raise ValueError(f"{name} must not be negative: {rows.tolist()}")
    if sum(rows.tolist()) > sys.maxsize:  # NumPy's own sum would wrap
        raise ValueError(f"{name} add up to more rows than an array can have: {rows.tolist()}")
    return rows.astype(np.uint64)


def _rows_of(x: Array, call: str) -> int:
    if x.ndim == 0:
        raise ValueError(f"{call}: x must have an axis 0 to be cut along, and it has shape ()")
    return int(x.shape[0])


def _block_shape(
    x: Array, size: int, counts: Array | None, rank: int, call: str, name: str
) -> tuple[int, ...]:
    """Shape of this rank's block of x, with everything checked."""
    rows = _rows_of(x, call)
    if counts is None:
        if rows % size:
            raise ValueError(
                f"{call}: axis 0 of x has {rows} rows, which {size} ranks cannot share equally: pass {name}"
            )
        return (rows // size, *x.shape[1:])
    total = int(counts.sum())
    if total != rows:
        raise ValueError(f"{call}: {name} add up to {total} rows and axis 0 of x has {rows}")
    return (int(counts[rank]), *x.shape[1:])


def _elements(counts: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Turn counts in rows of this shape into counts in elements."""
    if counts is None:
        return None
    return np.ascontiguousarray(counts * np.uint64(math.prod(shape[1:])))


class Target:
    """Where a result goes: the array given as `out`, or a new one; packed, if the core cannot write there.

    Parameters
    ----------
    out : object
        What the caller gave, or None.
    shape, dtype
        What it must be.
    source : ndarray, optional
        What the core reads meanwhile. An `out` that is the very same array is written in place; one that
        overlaps it otherwise is written at the end.
    """

    __slots__ = ("array", "out")

    def __init__(
        self, out: object, shape: tuple[int, ...], dtype: np.dtype[Any], source: Array | None = None
    ) -> None:
        self.out: Array | None = None
        if out is None:
            self.array = np.empty(shape, dtype)
            return
        checked = check_out(out, shape, dtype)
        direct = checked.flags.c_contiguous
        if source is not None and direct and np.may_share_memory(checked, source):
            direct = checked.ctypes.data == source.ctypes.data and checked.nbytes == source.nbytes
        self.array = checked if direct else np.empty(shape, dtype)
        self.out = checked

    def result(self) -> Array:
        """Return the result, where the caller wanted it."""
        if self.out is None or self.out is self.array:
            return self.array
        self.out[...] = self.array
        return self.out


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return `out` if a result of this shape and dtype may be written to it."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, not {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out


def _packed(x: Array) -> Array:
    """Return x as the core reads it: in C order."""
    # np.ascontiguousarray would give a 0-d array an axis.
    return x if x.flags.c_contiguous else np.array(x, order="C", copy=True)


# ---------------------------------------------------------------------------------------- collectives


def barrier() -> Call:
    """Check a barrier."""
    return _call("barrier", lambda _: None)


def broadcast(at: Place, x: object, root: object) -> Call:
    """Check a broadcast."""
    root = root_of(root, at.size)
    if x is None:
        if at.rank == root:
            raise TypeError("x must be an array at root, not None")
        return _call("broadcast", lambda got: got, root=root, allocate=_new)
    array = array_of(x)
    code = code_of(array.dtype)
    if at.rank == root:
        packed = _packed(array)
        return _call(
            "broadcast", lambda _: array, dtype=code, root=root, send=packed, out=packed, count=array.size,
            shape=array.shape,
        )  # fmt: skip
    if not array.flags.writeable:
        raise ValueError("x is read-only, and is written to elsewhere than at root")
    target = Target(array, array.shape, array.dtype)
    return _call(
        "broadcast", lambda _: target.result(), dtype=code, root=root, out=target.array, count=array.size
    )  # fmt: skip


def reduction(at: Place, kind: str, x: object, op: Op, out: object, root: object = 0) -> Call:
    """Check an allreduce, reduce, scan or exscan."""
    array = array_of(x)
    code = code_of(array.dtype)
    root = root_of(root, at.size)
    if callable(op):
        return _folded(at, kind, array, code, op, out, root)
    number = op_of(op, array.dtype, code)
    if kind == "reduce" and at.rank != root:
        return _call(
            kind, lambda _: None, op=number, dtype=code, root=root, send=_packed(array), count=array.size
        )
    target = Target(out, array.shape, array.dtype, array)
    if kind == "exscan" and at.rank == 0:
        identity = _identity(op, array.dtype)

        def finish(_: object) -> Array:
            target.array[...] = identity
            return target.result()
    else:

        def finish(_: object) -> Array:
            return target.result()

    return _call(
        kind, finish, op=number, dtype=code, root=root, send=_packed(array), out=target.array,
        count=array.size
    )  # fmt: skip


def _identity(op: object, dtype: np.dtype[Any]) -> Any:
    """Return what rank 0 gets of an exscan: the reduction of nothing."""
    if op in ("sum", "bor", "bxor", "lor", "lxor"):
        return np.zeros((), dtype)
    if op in ("prod", "land"):
        return np.ones((), dtype)
    if op == "band":
        return np.ones((), dtype) if dtype.kind == "b" else np.invert(np.zeros((), dtype))
    if op == "mean":
        return np.full((), np.nan, dtype)
    if dtype.kind == "b":
        return np.full((), op == "min", dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.full((), limits.max if op == "min" else limits.min, dtype)
    return np.full((), np.inf if op == "min" else -np.inf, dtype)


def _folded(
    at: Place, kind: str, array: Array, code: int, op: Callable[[Array, Array], Array], out: object, root: int
) -> Call:
    """Reduce by a function of the caller: gather the whole arrays, and fold those in rank order.

    The function sees whole arrays, so it need not be elementwise (a matrix product is fine).
    """
    to_all = kind != "reduce"
    blocks = np.empty((at.size, *array.shape), array.dtype) if to_all or at.rank == root else None
    if out is not None and blocks is not None:
        check_out(out, array.shape, array.dtype)

    def finish(_: object) -> Any:
        if blocks is None:
            return None
        last = {"scan": at.rank + 1, "exscan": at.rank}.get(kind, at.size)
        if last == 0:
            return out
        total: Any = blocks[0]
        for block in blocks[1:last]:
            total = op(total, block)
        total = np.asarray(total)
        if out is None:
            return total.copy() if last == 1 else total
        if total.shape != array.shape or total.dtype != array.dtype:
            raise TypeError(
                f"op returned {total.dtype} of shape {total.shape},"
                f" and out is {array.dtype} of shape {array.shape}"
            )
        assert isinstance(out, np.ndarray)
        out[...] = total
        return out

    return _call(
        "allgather" if to_all else "gather", finish, dtype=code, root=root, send=_packed(array), out=blocks,
        count=array.size,
    )  # fmt: skip


def reduce_scatter(at: Place, x: object, op: Op, out: object, counts: Counts | None) -> Call:
    """Check a reduce_scatter."""
    array = array_of(x)
    code = code_of(array.dtype)
    rows = counts_of(counts, at.size)
    shape = _block_shape(array, at.size, rows, at.rank, "reduce_scatter", "counts")
    if callable(op):
        return _folded_blocks(at, array, code, op, out, rows, shape)
    number = op_of(op, array.dtype, code)
    target = Target(out, shape, array.dtype, array)
    if target.out is target.array and np.may_share_memory(target.array, array):  # e.g. out is x of one rank
        target.array = np.empty(shape, array.dtype)
    return _call(
        "reduce_scatter", lambda _: target.result(), op=number, dtype=code, send=_packed(array),
        out=target.array, count=target.array.size, counts=_elements(rows, array.shape),
    )  # fmt: skip


def _folded_blocks(
    at: Place,
    array: Array,
    code: int,
    op: Callable[[Array, Array], Array],
    out: object,
    rows: Array | None,
    shape: tuple[int, ...],
) -> Call:
    """reduce_scatter by a function of the caller: as `_folded`, and keep one's own block of the result."""
    if out is not None:
        check_out(out, shape, array.dtype)
    whole = _folded(at, "allreduce", array, code, op, None, 0)
    start = at.rank * shape[0] if rows is None else int(rows[: at.rank].sum())

    def finish(got: object) -> Array:
        block: Array = whole.finish(got)[start : start + shape[0]]
        if out is None:
            return block.copy()
        assert isinstance(out, np.ndarray)
        out[...] = block
        return out

    return Call(whole.arguments, finish)


def scatter(at: Place, x: object, root: object, out: object, counts: Counts | None) -> Call:
    """Check a scatter."""
    root = root_of(root, at.size)
    rows = counts_of(counts, at.size)
    if at.rank != root:
        if out is None:
            return _call("scatter", lambda got: got, root=root, allocate=_new)
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
        target = Target(out, out.shape, out.dtype)
        return _call(
            "scatter", lambda _: target.result(), dtype=code_of(out.dtype, "out"), root=root,
            out=target.array, count=target.array.size,
        )  # fmt: skip
    if x is None:
        raise TypeError("x must be an array at root, not None")
    array = array_of(x)
    shape = _block_shape(array, at.size, rows, at.rank, "scatter", "counts")
    if rows is not None and 0 in array.shape[1:]:
        # Counts travel in elements, so a rank could not tell how many of these rows are its own.
        if (rows != rows[0]).any():
            raise ValueError(
                f"scatter: rows of shape {array.shape[1:]} have no elements,"
                f" and counts {rows.tolist()} differ"
            )
        rows = None
    target = Target(out, shape, array.dtype, array)
    if target.out is target.array and np.may_share_memory(target.array, array):
        target.array = np.empty(shape, array.dtype)
    return _call(
        "scatter", lambda _: target.result(), dtype=code_of(array.dtype), root=root, send=_packed(array),
        out=target.array, count=target.array.size, counts=_elements(rows, array.shape), shape=array.shape,
    )  # fmt: skip


def gather(at: Place, kind: str, x: object, root: object, out: object, counts: Counts | None) -> Call:
    """Check a gather or an allgather."""
    array = array_of(x)
    code = code_of(array.dtype)
    root = root_of(root, at.size)
    rows = counts_of(counts, at.size)
    if rows is None:
        shape = (at.size * array.shape[0], *array.shape[1:]) if array.ndim else (at.size,)
    else:
        own = _rows_of(array, kind)
        if int(rows[at.rank]) != own:
            raise ValueError(
                f"{kind}: counts say {int(rows[at.rank])} rows for rank {at.rank} and axis 0 of x has {own}"
            )
        shape = (int(rows.sum()), *array.shape[1:])
    elements = _elements(rows, array.shape)
    if kind == "gather" and at.rank != root:
        return _call(
            kind,
            lambda _: None,
            dtype=code,
            root=root,
            send=_packed(array),
            count=array.size,
            counts=elements,
        )
    target = Target(out, shape, array.dtype, array)
    send = _packed(array)
    if target.out is target.array and np.may_share_memory(target.array, send):
        send = send.copy()  # out overlaps x: the result is written while x is still being read
    return _call(
        kind, lambda _: target.result(), dtype=code, root=root, send=send, out=target.array, count=array.size,
        counts=elements,
    )  # fmt: skip


def alltoall(
    at: Place, x: object, out: object, send_counts: Counts | None, recv_counts: Counts | None
) -> Call:
    """Check an alltoall."""
    array = array_of(x)
    code = code_of(array.dtype)
    send_rows = counts_of(send_counts, at.size, "send_counts")
    recv_rows = counts_of(recv_counts, at.size, "recv_counts")
    if send_rows is None:
        if recv_rows is not None:
            raise ValueError("alltoall: recv_counts is given, so send_counts must be too")
        _block_shape(array, at.size, None, 0, "alltoall", "send_counts")
        target = Target(out, array.shape, array.dtype, array)
        send = _packed(array)
        if target.out is target.array and np.may_share_memory(target.array, send):
            send = send.copy()
        return _call(
            "alltoall", lambda _: target.result(), dtype=code, send=send, out=target.array,
            count=array.size // at.size,
        )  # fmt: skip
    _block_shape(array, at.size, send_rows, 0, "alltoall", "send_counts")
    if out is not None:
        if recv_rows is not None:
            rows = int(recv_rows.sum())
        else:
            rows = out.shape[0] if isinstance(out, np.ndarray) and out.ndim else 0
        check_out(out, (rows, *array.shape[1:]), array.dtype)
    if 0 in array.shape[1:]:
        # Counts travel in elements, and these rows have none: a byte stands for each of them.
        stand_in = np.zeros(array.shape[0], np.uint8)
        counted = _alltoall_counted(stand_in, _UINT8, None, send_rows, recv_rows)

        def finish(got: Array) -> Array:
            return Target(out, (counted.finish(got).shape[0], *array.shape[1:]), array.dtype).result()

        return Call(counted.arguments, finish)
    return _alltoall_counted(array, code, out, send_rows, recv_rows)


def _alltoall_counted(array: Array, code: int, out: Any, send_rows: Array, recv_rows: Array | None) -> Call:
    """Make an alltoall whose blocks differ: what comes from whom is learned on the way."""
    row = math.prod(array.shape[1:])
    problem: list[str] = []

    def allocate(dtype: int, shape: object, counts: list[int], *_: object) -> Array:
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

    return _call(
        "alltoall", finish, dtype=code, send=_packed(array), counts=_elements(send_rows, array.shape),
        exchange=True, allocate=allocate,
    )  # fmt: skip


def exchange(kind: str, packed: Array, root: int, finish: Callable[[Array | None, list[int]], Any]) -> Call:
    """Make a gather or allgather of bytes whose sizes the ranks do not know of each other."""
    sizes: list[int] = []

    def allocate(dtype: int, shape: object, counts: list[int], *_: object) -> Array:
        sizes.extend(counts)
        return np.empty(sum(counts), np.uint8)

    return _call(
        kind,
        lambda got: finish(got, sizes),
        root=root,
        send=packed,
        count=packed.size,
        exchange=True,
        allocate=allocate,
    )


def exchange_all(packed: Sequence[Array], finish: Callable[[Array, list[int]], Any]) -> Call:
    """Make an alltoall of bytes whose sizes the ranks do not know of each other."""
    sizes: list[int] = []

    def allocate(dtype: int, shape: object, counts: list[int], *_: object) -> Array:
        sizes.extend(counts)
        return np.empty(sum(counts), np.uint8)

    send = np.concatenate(packed)
    counts = np.array([p.size for p in packed], np.uint64)
    return _call(
        "alltoall", lambda got: finish(got, sizes), send=send, counts=counts, exchange=True, allocate=allocate
    )


def _new(dtype: int, shape: tuple[int, ...], *_: object) -> Array:
    """Make the array that a rank receives which did not pass one."""
    return np.empty(shape, dtype_of(dtype))
