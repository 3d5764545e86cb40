"""Collectives read arrays of comm.empty where they lie: the bits are those of copies, and races show."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from commops import Comm

from .cases import DTYPES, Array
from .layouts import Layout
from .strategies import OPS
from .world import World

# Arrays of any size are read in place, in rounds so small that they are read in many.
TINY = (
    ("COMMOPS_DIRECT_BYTES", "1"),
    ("COMMOPS_STAGED_BYTES", "64"),
    ("COMMOPS_ROUND_BYTES", "1024"),
    ("COMMOPS_SLOT_BYTES", "512"),
)
ONE_HOST = [Layout("a" * n, "shm", TINY) for n in (1, 2, 3, 4)]
# Ordinary arrays are copied from where they lie, too, where nothing is reduced.
ATTACHED = Layout("aaa", "shm", (*TINY, ("COMMOPS_ATTACH_BYTES", "1")), "attached")
LAYOUTS = [*ONE_HOST, Layout("aabb", settings=TINY), ATTACHED]
PLACES = ("all", "even", "odd", "views", "none")  # which ranks pass memory of the window


@pytest.fixture(params=LAYOUTS, ids=str)
def tiny(request: pytest.FixtureRequest, worlds: Callable[[Layout], World]) -> World:
    return worlds(request.param)


def values(comm: Comm, n: int, dtype: np.dtype[Any], seed: int) -> Array:
    """Fractions in floating types, so that another order of additions would show."""
    rng = np.random.default_rng([seed, comm.rank])
    if dtype.kind == "b":
        return rng.integers(0, 2, n).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0, 120, n).astype(dtype)
    real = rng.uniform(0.9, 1.1, n)
    return (real + 1j * rng.uniform(-0.1, 0.1, n) if dtype.kind == "c" else real).astype(dtype)


def placed(comm: Comm, n: int, dtype: np.dtype[Any], place: str) -> Array:
    """Make an array in the window, or an ordinary one on ranks that are not to have one; together."""
    if place == "views":
        return comm.empty(n + 10 + comm.rank, dtype)[3 + comm.rank : 3 + comm.rank + n]
    array = comm.empty(n, dtype)
    has_one = place == "all" or place == ("even", "odd")[comm.rank % 2]
    return array if has_one else np.empty(n, dtype)


def same_bits(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    padded = a.dtype.char in "gG"  # long doubles have bytes that mean nothing
    return np.array_equal(a, b) if padded else a.tobytes() == b.tobytes()


def calls(comm: Comm, x: Array, y: Array, op: str | None) -> list[Array | None]:
    """Results of every call on arrays of size * k and k elements; `op` None: those that reduce nothing."""
    size, root = comm.size, comm.size - 1
    k = y.size
    whole = x.copy()
    results: list[Array | None] = []
    if op is not None:
        results += [comm.allreduce(x, op), comm.reduce(x, op, root), comm.scan(x, op), comm.exscan(x, op)]
        results += [comm.reduce_scatter(x, op, out=y).copy()]
        for call in (comm.allreduce, comm.scan):
            results.append(call(x, op, out=x).copy())
            x[...] = whole  # at once
        comm.reduce(x, op, 0, out=x)
        results.append(x.copy())
        x[...] = whole
    else:
        results += [comm.scatter(x if comm.rank == root else None, root, out=y).copy()]
        y[...] = whole[:k]
        results += [comm.gather(y, root), comm.allgather(y), comm.alltoall(x)]
        results += [comm.allgather(y[: 7 * comm.rank], counts=[7 * rank for rank in range(size)])]
        results += [comm.allgather(y, out=x).copy()]
        x[...] = whole
        results.append(comm.broadcast(x, root).copy())
    if op is not None and comm.rank == 0:
        results[3] = None  # what exscan leaves at rank 0 means nothing
    return results


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_call_of_every_dtype_gives_the_bits_of_copies(tiny: World, dtype: str) -> None:
    def program(comm: Comm, dtype: np.dtype[Any], ops: list[str], places: tuple[str, ...]) -> None:
        for seed, op in enumerate([*ops, None]):
            by_place = {}
            for place in places:
                x, y = placed(comm, 300 * comm.size, dtype, place), placed(comm, 300, dtype, place)
                x[...] = values(comm, x.size, dtype, seed)
                y[...] = 0
                by_place[place] = calls(comm, x, y, op)
            for place, results in by_place.items():
                same = [same_bits(a, b) for a, b in zip(results, by_place["none"], strict=True)]
                assert all(same), (op, place, same)

    tiny.run(program, DTYPES[dtype], list(OPS[dtype]), PLACES)


@pytest.mark.parametrize("n", [100, 40_000, 150_000])
def test_arrays_that_are_freed_at_once(tiny: World, n: int) -> None:
    """Their memory goes back to the system, and to the next array, when nobody reads it any more."""

    def program(comm: Comm, n: int) -> None:
        size = comm.size
        total = size * (size - 1) // 2

        def filled(value: int) -> Array:
            array = comm.empty(n * size, np.int64)
            array[...] = value
            return array

        for i in range(4):
            assert (comm.allreduce(filled(comm.rank + i)) == total + size * i).all()
            blocks = np.repeat(np.arange(size) + i, n)
            assert np.array_equal(comm.alltoall(filled(comm.rank + i)), blocks)
            assert np.array_equal(comm.allgather(filled(comm.rank + i)[:n]), blocks)
            assert (comm.broadcast(filled(comm.rank + i), i % size) == i % size + i).all()
            assert (comm.reduce_scatter(filled(comm.rank + i)) == total + size * i).all()
            gathered = comm.gather(filled(comm.rank + i)[:n], i % size)
            assert gathered is None or np.array_equal(gathered, blocks)

    tiny.run(program, n)


@pytest.mark.parametrize("blocking", [True, False])
def test_many_rounds_on_arrays_used_again_at_once(tiny: World, blocking: bool) -> None:
    """A race that is lost once in a thousand calls would show."""

    def program(comm: Comm, rounds: int, blocking: bool) -> None:
        size, rank = comm.size, comm.rank
        x, y, z = comm.empty(64 * size, np.int64), comm.empty(64 * size, np.int64), comm.empty(64, np.int64)
        if rank % 2:  # from time to time this rank has an ordinary array
            spare = np.empty_like(x)
        for i in range(rounds):
            array = spare if rank % 2 and i // 50 % 3 == 2 else x
            array[...] = i * (rank + 1)
            total = i * size * (size + 1) // 2
            root = i % size
            call: str
            arguments: tuple[Any, ...]
            wanted: Any
            match i % 6:
                case 0:
                    call, arguments, wanted = "allreduce", (array, "sum", y), total
                case 1:
                    call, arguments, wanted = "allreduce", (array, "sum", array), total
                case 2:
                    call, arguments, wanted = "broadcast", (array, root), i * (root + 1)
                case 3:
                    call, arguments, wanted = "reduce_scatter", (array, "sum", z), total
                case 4:
                    call, arguments = "allgather", (array[:64], y)
                    wanted = np.repeat(i * np.arange(1, size + 1), 64)
                case _:
                    call, arguments, wanted = "scan", (array, "sum", array), i * (rank + 1) * (rank + 2) // 2
            made = getattr(comm, call if blocking else "i" + call)(*arguments)
            got = made if blocking else made.wait()
            assert (got == wanted).all(), (i, call)
            array[...] = -1
            y[...] = z[0] = -2

    tiny.run(program, 1200 if blocking else 240, blocking)


def test_different_kinds_of_arrays_on_every_rank(tiny: World) -> None:
    """Every way in which in and out of a rank may lie, on all ranks."""

    def program(comm: Comm, n: int) -> None:
        shared, result = comm.empty(n, np.float32), comm.empty(n, np.float32)
        for ways in itertools.product(range(4), repeat=min(comm.size, 3)):
            way = ways[comm.rank % len(ways)]
            x = shared if way % 2 else np.empty(n, np.float32)
            out = result if way // 2 else x if way % 2 else np.empty(n, np.float32)
            x[...] = values(comm, n, np.dtype(np.float32), 1)
            wanted = comm.allreduce(np.array(x))
            assert comm.allreduce(x, out=out).tobytes() == wanted.tobytes()

    tiny.run(program, 3000)
