"""Examples of collective calls: how a rank makes them, and what NumPy says that they give.

A `Case` describes one call of all ranks in a few plain values. `make` runs on the ranks, `expected` in the
tests; both derive the ranks' arrays from the case's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

import commops

Array: TypeAlias = np.ndarray[Any, Any]

DTYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
        "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble",
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}  # fmt: skip
HALVES = ("float16", "bfloat16")
REDUCING = ("allreduce", "reduce", "reduce_scatter", "scan", "exscan")
SHAPED = ("broadcast", "allreduce", "reduce", "scan", "exscan")
BLOCKED = ("reduce_scatter", "scatter", "gather", "allgather", "alltoall")
ROOTED = ("broadcast", "reduce", "scatter", "gather")
CALLS = (*SHAPED, *BLOCKED)
FORMS = ("C", "F", "strided", "reversed", "unaligned", "read-only", "repeated", "shared")
OUTS = ("none", "C", "F", "strided", "reversed", "in place", "overlapping", "shared")


def product(a: Array, b: Array) -> Array:
    """The matrix product: of whole arrays, and a @ b is not b @ a."""
    return a @ b


def right(a: Array, b: Array) -> Array:
    """The later operand: associative, and in rank order the last one's."""
    return b


FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {"product": product, "right": right}


@dataclass(frozen=True)
class Case:
    """One collective call.

    Attributes
    ----------
    call, dtype, op : str
    shape : tuple of int
        Of the array; of one row of it for the calls in `BLOCKED`.
    rows : tuple of tuple of int
        Rows of block j of rank i's array, for the calls in `BLOCKED`; for all but alltoall every line is
        alike.
    counted : bool
        Pass `counts`. Without, all rows are alike.
    flat : bool
        gather, allgather: of 0-d arrays.
    form, out : str
        How the input lies in memory, and where the output goes.
    """

    call: str
    dtype: str = "int64"
    op: str = "sum"
    root: int = 0
    shape: tuple[int, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    counted: bool = False
    flat: bool = False
    form: str = "C"
    out: str = "none"
    blocking: bool = True
    seed: int = 0


# ---------------------------------------------------------------------------------------- arrays


def values(case: Case, shape: tuple[int, ...], rank: int) -> Array:
    """Return a rank's array: of values for which the order of a reduction does not show in the result."""
    rng = np.random.default_rng([case.seed, rank])
    dtype = DTYPES[case.dtype]
    if dtype.kind == "b":
        return rng.random(shape) < 0.6
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if case.op == "prod":
        parts = rng.choice([1.0, -1.0, 2.0, 0.5, 1.5], (2, *shape))
    elif case.op in ("min", "max"):
        parts = rng.choice(
            [0.0, 1.0, -1.5, 7.0, np.inf, -np.inf, np.nan],
            (2, *shape),
            p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.05],
        )
    elif case.op.startswith("l"):
        parts = rng.choice([0.0, 1.0, -3.0], (2, *shape))
    elif case.dtype in HALVES:  # a sum in half precision would round at each step
        parts = 1 + rng.integers(0, 128, (2, *shape)) / 128 * rng.choice([1.0, 0.5], (2, *shape))
    else:
        parts = rng.integers(-9, 9, (2, *shape)).astype(np.float64)
    if dtype.kind == "c":
        return (parts[0] + 1j * (0 if case.op == "prod" else parts[1])).astype(dtype)
    array: Array = parts[0].astype(dtype)
    return array


def room(comm: commops.Comm, form: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of the shape that lies in memory as `form` says."""
    if form == "shared":
        return comm.empty(shape, dtype)
    if form == "F":
        return np.zeros(shape, dtype, order="F")
    if form == "unaligned":
        n = int(np.prod(shape)) * dtype.itemsize
        return np.zeros(n + 1, np.uint8)[1:].view(dtype).reshape(shape)
    if form == "strided" and shape:
        return np.zeros((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    if form == "reversed" and shape:
        return np.zeros(shape, dtype)[::-1]
    return np.zeros(shape, dtype)


def laid_out(comm: commops.Comm, form: str, array: Array) -> Array:
    """Return the array's values in memory of a form."""
    if form == "repeated" and array.ndim and array.shape[0] and (array == array[:1]).all():
        return np.broadcast_to(array[0], array.shape)
    x = room(comm, form, array.shape, array.dtype)
    x[...] = array
    if form == "read-only":
        x.flags.writeable = False
    return x


def inputs(case: Case, size: int) -> list[Array]:
    """Return every rank's array."""
    return [input_of(case, rank) for rank in range(size)]


def input_of(case: Case, rank: int) -> Array:
    """Return one rank's array."""
    if case.call in SHAPED:
        shape = case.shape
    elif case.flat:
        shape = ()
    elif case.call in ("gather", "allgather"):
        shape = (case.rows[0][rank], *case.shape)
    else:
        shape = (sum(case.rows[rank]), *case.shape)
    array = values(case, shape, rank)
    if case.form == "repeated" and array.ndim and array.shape[0]:
        array[...] = array[:1].copy()
    return array


# ---------------------------------------------------------------------------------------- on a rank


def make(comm: commops.Comm, case: Case) -> tuple[Array | None, bool]:
    """Make the call; return its result, and whether everything else is as it should be."""
    return start(comm, case)()


def start(comm: commops.Comm, case: Case) -> Callable[[], tuple[Array | None, bool]]:
    """Start the call; what is returned waits for its result."""
    mine = input_of(case, comm.rank)
    wanted = None if case.out == "none" else expected(case, comm.size)[comm.rank]
    x = laid_out(comm, case.form, mine)
    given: Any = x
    if case.call == "scatter" and comm.rank != case.root:
        given = None
    if case.call == "broadcast":
        target = None if case.out == "none" else room(comm, case.out, case.shape, mine.dtype)
        given = x if comm.rank == case.root else target
    arguments: dict[str, Any] = {}
    if case.call in ROOTED:
        arguments["root"] = case.root
    if case.call in REDUCING:
        arguments["op"] = FUNCTIONS.get(case.op, case.op)
    if case.call in BLOCKED and case.counted:
        if case.call == "alltoall":
            arguments["send_counts"] = case.rows[comm.rank]
            if case.seed % 2:
                arguments["recv_counts"] = [line[comm.rank] for line in case.rows]
        elif case.call != "scatter" or comm.rank == case.root:
            arguments["counts"] = case.rows[0]
    out = None
    if case.call != "broadcast":
        out = _out(comm, case, x, wanted, mine)
        arguments["out"] = out
    if case.blocking:
        result = getattr(comm, case.call)(given, **arguments)
        return lambda: _checked(result, out, x, mine, given, case)
    work = getattr(comm, "i" + case.call)(given, **arguments)
    return lambda: _checked(work.wait(), out, x, mine, given, case)


def _out(comm: commops.Comm, case: Case, x: Array, wanted: Array | None, mine: Array) -> Array | None:
    """Return an `out` as the case says, where this call and this rank have one."""
    if case.out == "shared":  # collective, so also where it is not needed
        out = comm.empty(mine.shape if wanted is None else wanted.shape, mine.dtype)
        return None if wanted is None else out
    if case.out == "none" or wanted is None:
        return None
    if case.out in ("in place", "overlapping"):
        if not x.flags.writeable or x.shape != wanted.shape:
            return None
        if case.out == "in place":
            return x
        return x[::-1] if x.ndim else x
    return room(comm, case.out, wanted.shape, wanted.dtype)


def _checked(
    result: Array | None, out: Array | None, x: Array, mine: Array, given: Array | None, case: Case
) -> tuple[Array | None, bool]:
    overwritten = out is not None and np.may_share_memory(out, x)
    fine = overwritten or _same(x, mine)
    if out is not None and result is not None:
        fine = fine and result is out
    if case.call == "broadcast" and given is not None:
        fine = fine and result is given
    return (None if result is None else np.array(result, order="C")), fine


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b) or bool(
        np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(a[a == a], b[b == b])
    )


# ---------------------------------------------------------------------------------------- NumPy's answer

_UFUNCS = {
    "sum": np.add, "mean": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum,
    "band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor,
    "land": np.logical_and, "lor": np.logical_or, "lxor": np.logical_xor,
}  # fmt: skip


def folded(case: Case, arrays: list[Array], dtype: np.dtype[Any]) -> Array:
    """Return NumPy's reduction of the arrays."""
    if case.op in FUNCTIONS:
        total = arrays[0]
        for array in arrays[1:]:
            total = FUNCTIONS[case.op](total, array)
        return total
    if case.op.startswith("l"):
        arrays = [array != 0 for array in arrays]
    elif case.dtype in HALVES:
        arrays = [array.astype(np.float32) for array in arrays]
    total = arrays[0]
    for array in arrays[1:]:
        total = _UFUNCS[case.op](total, array)
    if case.op == "mean":
        # Each part by itself: NumPy's complex division multiplies by a rounded reciprocal.
        number = total.real.dtype.type(len(arrays))
        total = total.real / number + (1j * (total.imag / number) if dtype.kind == "c" else 0)
    return np.asarray(total).astype(dtype)


def nothing(case: Case, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return the reduction of no arrays, which rank 0 gets of an exscan."""
    if case.op in ("min", "max") and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        value: Any = limits.max if case.op == "min" else limits.min
    elif case.op in ("min", "max"):
        value = np.inf if case.op == "min" else -np.inf
        value = case.op == "min" if dtype.kind == "b" else value
    elif case.op == "mean":
        value = np.nan
    elif case.op == "band":
        value = True if dtype.kind == "b" else np.invert(np.zeros((), dtype))
    else:
        value = case.op in ("prod", "land")
    return np.full(shape, value, dtype)


def expected(case: Case, size: int) -> list[Array | None]:
    """Return what every rank gets."""
    arrays = inputs(case, size)
    dtype = DTYPES[case.dtype]
    ranks = range(size)
    match case.call:
        case "broadcast":
            return [arrays[case.root]] * size
        case "allreduce":
            return [folded(case, arrays, dtype)] * size
        case "reduce":
            total = folded(case, arrays, dtype)
            return [total if rank == case.root else None for rank in ranks]
        case "scan":
            return [folded(case, arrays[: rank + 1], dtype) for rank in ranks]
        case "exscan":
            first = None if case.op in FUNCTIONS else nothing(case, dtype, case.shape)
            return [folded(case, arrays[:rank], dtype) if rank else first for rank in ranks]
        case "reduce_scatter":
            return list(_blocks(folded(case, arrays, dtype), case.rows[0]))
        case "scatter":
            return list(_blocks(arrays[case.root], case.rows[case.root]))
        case "gather" | "allgather":
            joined = np.stack(arrays) if case.flat else np.concatenate(arrays)
            return [joined if rank == case.root or case.call == "allgather" else None for rank in ranks]
        case "alltoall":
            blocks = [_blocks(array, rows) for array, rows in zip(arrays, case.rows, strict=True)]
            return [np.concatenate([blocks[source][rank] for source in ranks]) for rank in ranks]
    raise ValueError(case.call)


def _blocks(array: Array, rows: tuple[int, ...]) -> list[Array]:
    return np.split(array, np.cumsum(rows)[:-1]) if len(rows) > 1 else [array]


def difference(case: Case, size: int, results: list[tuple[Array | None, bool]]) -> str | None:
    """Say how what the ranks got differs from NumPy's answer, if it does."""
    for rank, ((got, fine), wanted) in enumerate(zip(results, expected(case, size), strict=True)):
        if (got is None) != (wanted is None):
            return f"rank {rank} got {got} instead of {wanted}"
        if not fine:
            return f"rank {rank}: an input was changed, or what is returned is not the array that was passed"
        if got is None or wanted is None:
            continue
        if got.dtype != wanted.dtype or got.shape != wanted.shape:
            return f"rank {rank} got {got.dtype} {got.shape} instead of {wanted.dtype} {wanted.shape}"
        if not _same(got, wanted):
            at = np.argwhere((got != wanted) & ~(np.isnan(got) & np.isnan(wanted)))
            places = f"{len(at)} of {got.size} places, first at {at[0].tolist()}"
            return f"rank {rank} differs at {places}: {got} instead of {wanted}"
    return None


def simpler(case: Case, **changes: Any) -> Case:
    """Return the case with other attributes."""
    return replace(case, **changes)
