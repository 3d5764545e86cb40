"""How long collectives take.

The method: float32, sum; arrays that the caller owns, results into ``out=``. Below `BACK_TO_BACK` bytes calls
follow each other and a batch's time is divided by their number. From there on every call sends data that was
written just before, starts at a barrier, and only the call is timed: to send the same untouched buffer again
and again would show the caches, not the collective. The slowest rank counts; the figure is the median of the
batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BACK_TO_BACK", "OPS", "SIZES", "Row", "compare", "measure"]

SIZES = (8, 64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
BACK_TO_BACK = 16 << 10  # bytes; from here on each call is measured by itself

_Floats = NDArray[np.float32]


class Collectives(Protocol):
    """What is measured: `commops.Comm`, or another library behind the same names."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def barrier(self) -> None: ...
    def broadcast(self, x: _Floats, root: int = 0) -> Any: ...
    def allreduce(self, x: _Floats, op: str = "sum", out: _Floats | None = None) -> Any: ...
    def reduce_scatter(self, x: _Floats, op: str = "sum", out: _Floats | None = None) -> Any: ...
    def scatter(self, x: _Floats | None, root: int = 0, out: _Floats | None = None) -> Any: ...
    def allgather(self, x: _Floats, out: _Floats | None = None, /) -> Any: ...
    def alltoall(self, x: _Floats, out: _Floats | None = None, /) -> Any: ...
    def send(self, x: _Floats, dest: int, tag: int = 0) -> Any: ...
    def recv(self, out: _Floats | None = None, source: int = 0, tag: int = 0) -> Any: ...


class Case(NamedTuple):
    """A call to be timed.

    Attributes
    ----------
    call : callable
    data : array or None
        What this rank sends, and writes anew before each call.
    """

    call: Callable[[], Any]
    data: _Floats | None = None


_New = Callable[[int], _Floats]  # elements → an array


def _barrier(comm: Collectives, count: int, new: _New) -> Case:
    return Case(comm.barrier)


def _pingpong(comm: Collectives, count: int, new: _New) -> Case:
    """Time a message from rank 0 to rank 1 and back; the other ranks stand by."""
    x, out = new(count), new(count)

    def there_and_back() -> None:
        if comm.rank == 0:
            comm.send(x, 1)
            comm.recv(out, 1)
        elif comm.rank == 1:
            comm.recv(out, 0)
            comm.send(out, 0)

    return Case(there_and_back, x if comm.rank == 0 else None)


def _allreduce(comm: Collectives, count: int, new: _New) -> Case:
    x, out = new(count), new(count)
    return Case(lambda: comm.allreduce(x, out=out), x)


def _allgather(comm: Collectives, count: int, new: _New) -> Case:
    x, out = new(count), new(count * comm.size)
    return Case(lambda: comm.allgather(x, out), x)


def _reduce_scatter(comm: Collectives, count: int, new: _New) -> Case:
    x, out = new(count * comm.size), new(count)
    return Case(lambda: comm.reduce_scatter(x, out=out), x)


def _broadcast(comm: Collectives, count: int, new: _New) -> Case:
    x = new(count)
    return Case(lambda: comm.broadcast(x), x if comm.rank == 0 else None)


def _scatter(comm: Collectives, count: int, new: _New) -> Case:
    x, out = new(count * comm.size), new(count)
    mine = x if comm.rank == 0 else None
    return Case(lambda: comm.scatter(mine, out=out), mine)


def _alltoall(comm: Collectives, count: int, new: _New) -> Case:
    x, out = new(count * comm.size), new(count * comm.size)
    return Case(lambda: comm.alltoall(x, out), x)


OPS: dict[str, Callable[[Collectives, int, _New], Case]] = {
    "barrier": _barrier,
    "pingpong": _pingpong,
    "allreduce": _allreduce,
    "allgather": _allgather,
    "reduce_scatter": _reduce_scatter,
    "broadcast": _broadcast,
    "scatter": _scatter,
    "alltoall": _alltoall,
}


class Row(NamedTuple):
    """One measurement.

    Attributes
    ----------
    op : str
    bytes : int
        What a rank contributes; for scatter, alltoall and reduce_scatter one block of it; 0 for barrier.
    microseconds : float
        A call's time at the slowest rank, the median of the batches; a round trip for pingpong.
    lowest, highest : float
        Microseconds of the best and the worst batch.
    calls : int
        In each batch.
    """

    op: str
    bytes: int
    microseconds: float
    lowest: float
    highest: float
    calls: int

    @property
    def gigabytes_per_second(self) -> float:
        """`bytes` by the time; pingpong counts both ways."""
        return self.bytes * (2 if self.op == "pingpong" else 1) / self.microseconds / 1e3


def measure(
    comm: Collectives,
    ops: Sequence[str] = tuple(OPS),
    sizes: Sequence[int] = SIZES,
    *,
    batches: int = 9,
    seconds: float = 0.2,
    new: _New | None = None,
    cases: Mapping[str, Callable[[Any, int, _New], Case]] = OPS,
) -> Iterator[Row]:
    """Measure each of the operations at each of the sizes.

    Parameters
    ----------
    comm : Collectives
        All its ranks run this together, with the same arguments.
    ops : sequence of str
        Keys of `cases`. pingpong is left out where there is one rank.
    sizes : sequence of int
        Bytes, multiples of 4.
    batches : int
        Number of batches, of which the median counts.
    seconds : float
        About how long the timed calls of one measurement may take together; each batch has one call at least.
    new : callable, optional
        Makes the arrays, from a number of float32 elements; `numpy.zeros` by default.
    cases : mapping
        How each operation is called.

    Yields
    ------
    Row
        The same on all ranks.
    """
    make = new or (lambda count: np.zeros(count, np.float32))
    for op in ops:
        if op == "pingpong" and comm.size < 2:
            continue
        for size in (0,) if op == "barrier" else sizes:
            yield compare([comm], op, size, batches=batches, seconds=seconds, new=[make], cases=cases)[0]


def compare(
    comms: Sequence[Collectives],
    op: str,
    size: int,
    *,
    batches: int,
    seconds: float,
    new: Sequence[_New],
    cases: Mapping[str, Callable[[Any, int, _New], Case]] = OPS,
) -> list[Row]:
    """Measure an operation at one size on several communicators of the same ranks, which take turns.

    Parameters
    ----------
    comms : sequence of Collectives
    op, size, batches, seconds, cases
        As for `measure`; the time is that of one communicator.
    new : sequence of callable
        Makes the arrays of each.

    Returns
    -------
    list of Row
        Of each communicator; the same on all ranks.
    """
    run = _back_to_back if size < BACK_TO_BACK else _one_by_one
    made = [cases[op](comm, size // 4, make) for comm, make in zip(comms, new, strict=True)]
    turns = list(zip(comms, made, strict=True))
    for comm, case in turns:
        run(comm, case, 2)  # connections, pages, caches
    trial = _slowest(comms[0], np.array([run(comm, case, 3) for comm, case in turns])).max()
    calls = int(min(max(seconds / batches / max(trial, 1e-7), 1), 10_000))
    times = np.array([run(comm, case, calls) for _ in range(batches) for comm, case in turns])
    columns = _slowest(comms[0], times).reshape(batches, -1).T * 1e6
    return [
        Row(op, size, float(np.median(one)), float(one.min()), float(one.max()), calls) for one in columns
    ]


def _slowest(comm: Collectives, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the greatest of all ranks' times, element by element, the same on all ranks."""
    everyone = np.empty(comm.size * len(times), np.float32)
    comm.allgather(times.astype(np.float32), everyone)
    slowest: NDArray[np.float64] = everyone.reshape(comm.size, -1).max(axis=0).astype(np.float64)
    return slowest


def _back_to_back(comm: Collectives, case: Case, calls: int) -> float:
    """Return the seconds that a call takes on this rank, one following the other."""
    comm.barrier()
    begin = time.perf_counter()
    for _ in range(calls):
        case.call()
    return (time.perf_counter() - begin) / calls


def _one_by_one(comm: Collectives, case: Case, calls: int) -> float:
    """Return the seconds that a call takes on this rank, each with new data and from a barrier on."""
    spent = 0.0
    for number in range(calls):
        if case.data is not None:
            case.data.fill(number % 7)
        comm.barrier()
        begin = time.perf_counter()
        case.call()
        spent += time.perf_counter() - begin
    return spent / calls
