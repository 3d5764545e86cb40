"""Checks of single arguments, which many calls share.

What is wrong is a TypeError or ValueError that names the argument and shows what it is and what it must be.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from commops._core import native
from commops.dtypes import Array

__all__ = [
    "ANY",
    "Counts",
    "array_of",
    "block_shape",
    "check_out",
    "counts_of",
    "elements_of",
    "packed",
    "rank_of",
    "receiver_of",
    "rows_of",
    "source_of",
    "tag_of",
    "target_of",
    "whole_number",
]

ANY: int = native.ANY
"""Any source, or any tag, of a message."""

Counts: TypeAlias = Sequence[int] | Array
"""Rows of each rank along axis 0."""


def whole_number(value: object, name: str, meaning: str = "a whole number") -> int:
    """Return an int that was passed, as Python's or NumPy's."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be {meaning}, not {value!r}")
    return int(value)


def rank_of(rank: object, size: int, name: str = "root") -> int:
    """Return a rank that was passed."""
    number = whole_number(rank, name, "a rank, a whole number")
    if not 0 <= number < size:
        raise ValueError(f"{name} must be a rank from 0 to {size - 1}, not {number}")
    return number


def source_of(source: object, size: int) -> int:
    """Return the rank that a message is awaited from, or ANY."""
    number = whole_number(source, "source", "a rank, a whole number")
    if number != ANY and not 0 <= number < size:
        raise ValueError(f"source must be a rank from 0 to {size - 1} or ANY, not {number}")
    return number


def tag_of(tag: object, *, receives: bool) -> int:
    """Return a message's tag; also ANY, where it receives."""
    number = whole_number(tag, "tag")
    if not 0 <= number <= native.MAX_TAG and not (receives and number == ANY):
        raise ValueError(f"tag must be from 0 to 2**62 - 1{' or ANY' if receives else ''}, not {number}")
    return number


# ------------------------------------------------------------------ arrays


def array_of(x: object, name: str = "x") -> Array:
    """Return the array that was passed, or the 0-d array of a NumPy scalar."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(...)")
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    hint = ""
    if isinstance(x, complex | float | int | list | tuple) or hasattr(x, "__array__"):
        hint = f": use np.asarray({name})"
    elif x is not None:
        hint = "; other objects are exchanged with the …_object calls"
    raise TypeError(f"{name} must be a NumPy array, not {_shown(x)}{hint}")


def _shown(x: object) -> str:
    """Name the type of what was passed instead of an array, and None by itself."""
    return "None" if x is None else type(x).__name__


def packed(x: Array) -> Array:
    """Return x as the core reads it: in C order."""
    # np.ascontiguousarray would give a 0-d array an axis.
    return x if x.flags.c_contiguous else np.array(x, order="C", copy=True)


def receiver_of(out: object, name: str = "out") -> Array:
    """Return `out` if something may be written to it."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a NumPy array, not {_shown(out)}")
    flags = out.flags
    if not flags.writeable:
        raise ValueError(f"{name} is read-only")
    if not flags.forc and _overlaps_itself(out):
        raise ValueError(
            f"{name} must not overlap itself: with shape {out.shape} and strides {out.strides} some of its"
            " elements share memory"
        )
    return out


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return `out` if a result of this shape and dtype may be written to it."""
    array = receiver_of(out)
    if array.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"out must have shape {shape}, not {array.shape}")
    return array


def _overlaps_itself(array: Array) -> bool:
    """Say whether two elements of an array share memory."""
    if array.size == 0:
        return False
    axes = sorted((abs(stride), n) for stride, n in zip(array.strides, array.shape, strict=True) if n > 1)
    extent = array.itemsize  # bytes from the first to the last of what the axes so far span
    nested = True
    for stride, n in axes:
        nested = nested and stride >= extent
        extent += stride * (n - 1)
    if nested:  # as all are that slices and transposes make
        return False
    if axes[0][0] == 0:  # an axis that repeats
        return True
    # Strides that somebody made up: look where each element starts.
    starts = np.zeros(1, np.int64)
    for stride, n in axes:
        starts = np.add.outer(starts, stride * np.arange(n)).ravel()
    starts.sort()
    return bool((np.diff(starts) < array.itemsize).any())


def _same_memory(a: Array, b: Array) -> bool:
    return a is b or (a.ctypes.data == b.ctypes.data and a.nbytes == b.nbytes)


def target_of(
    out: object,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    source: Array | None = None,
    *,
    in_place: bool = False,
) -> tuple[Array, Callable[[Any], Array]]:
    """Find where a result goes: to `out`, or to a new array.

    Parameters
    ----------
    out : object
        What the caller gave, or None.
    shape, dtype
        What it must be.
    source : ndarray, optional
        What the core reads meanwhile. An `out` that overlaps it is written at the end.
    in_place : bool
        Whether the core can write to an `out` that is the very same array as `source`.

    Returns
    -------
    array : ndarray
        What the core is to write to.
    finish : callable
        Returns the result, where the caller wanted it, when the core has written; whatever it is given.
    """
    if out is None:
        new = np.empty(shape, dtype)
        return new, lambda _: new
    wanted = check_out(out, shape, dtype)
    direct = wanted.flags.c_contiguous
    if direct and source is not None and np.may_share_memory(wanted, source):
        direct = in_place and _same_memory(wanted, source)
    if direct:
        return wanted, lambda _: wanted
    apart = np.empty(shape, dtype)

    def copy(_: Any) -> Array:
        wanted[...] = apart
        return wanted

    return apart, copy


# ------------------------------------------------------------------ blocks along axis 0


def counts_of(counts: Counts | None, size: int, name: str = "counts") -> Array | None:
    """Return rows per rank as an array of uint64, or None."""
    if counts is None:
        return None
    if isinstance(counts, np.ndarray):
        counts = counts.tolist()
    if not isinstance(counts, Sequence) or isinstance(counts, str | bytes):
        raise TypeError(
            f"{name} must be a sequence with a number for each of the {size} ranks, not {counts!r}"
        )
    if len(counts) != size:
        raise ValueError(f"{name} must have one number for each of the {size} ranks, not {list(counts)}")
    rows = [whole_number(n, name, "whole numbers") for n in counts]
    if min(rows) < 0:
        raise ValueError(f"{name} must not be negative: {rows}")
    if sum(rows) > sys.maxsize:
        raise ValueError(f"{name} add up to more rows than an array can have: {rows}")
    return np.array(rows, np.uint64)


def rows_of(x: Array, call: str) -> int:
    """Return the length of axis 0."""
    if x.ndim == 0:
        raise ValueError(
            f"{call}: x must have an axis 0, whose rows are blocks of the ranks, and it has shape ():"
            " pass an array of shape (rows, ...)"
        )
    return int(x.shape[0])


def block_shape(
    x: Array, size: int, counts: Array | None, rank: int, call: str, name: str = "counts"
) -> tuple[int, ...]:
    """Return the shape of a rank's block of x."""
    rows = rows_of(x, call)
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


def elements_of(counts: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Turn counts in rows of this shape into counts in elements."""
    if counts is None:
        return None
    return np.ascontiguousarray(counts * np.uint64(math.prod(shape[1:])))
