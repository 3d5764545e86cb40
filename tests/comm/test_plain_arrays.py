"""Plain arrays go a short way through the binding, all others a longer one in Python; both mean the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from commops import ANY, Comm

from .world import World

Array = np.ndarray[Any, Any]


def padded(x: Array) -> Array:
    """Return a copy with gaps between its elements."""
    wide = np.zeros((*x.shape, 2), x.dtype)
    wide[..., 0] = x
    return wide[..., 0]


class Kept(np.ndarray):
    """A subclass."""


CALLS: dict[str, Callable[[Comm, Any, Any], Any]] = {
    "allreduce": lambda comm, x, out: comm.allreduce(x, out=out),
    "reduce": lambda comm, x, out: comm.reduce(x, root=comm.size - 1, out=out),
    "reduce_scatter": lambda comm, x, out: comm.reduce_scatter(x, "max", out),
    "scan": lambda comm, x, out: comm.scan(x, out=out),
    "gather": lambda comm, x, out: comm.gather(x, comm.size - 1, out),
    "allgather": lambda comm, x, out: comm.allgather(x, out),
    "alltoall": lambda comm, x, out: comm.alltoall(x, out),
    "broadcast": lambda comm, x, out: comm.broadcast(x, comm.size - 1),
    "scatter": lambda comm, x, out: comm.scatter(x, comm.size - 1, out),
}


def expected(call: str, everyone: list[Array], rank: int) -> Array | None:
    """Return the result by NumPy."""
    size, last = len(everyone), rank == len(everyone) - 1
    match call:
        case "allreduce":
            return np.sum(everyone, axis=0)
        case "reduce":
            return np.sum(everyone, axis=0) if last else None
        case "reduce_scatter":
            return np.split(np.max(everyone, axis=0), size)[rank]
        case "scan":
            return np.sum(everyone[: rank + 1], axis=0)
        case "gather":
            return np.concatenate(everyone) if last else None
        case "allgather":
            return np.concatenate(everyone)
        case "alltoall":
            return np.concatenate([np.split(x, size)[rank] for x in everyone])
        case "broadcast":
            return everyone[-1]
    return np.split(everyone[-1], size)[rank]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("columns", [0, 1, 3, 5000])
def test_ranks_may_go_either_way_in_one_call(world: World, call: str, columns: int) -> None:
    def program(comm: Comm, call: str, columns: int) -> None:
        rows = 2 * comm.size
        everyone = [np.arange(rows * columns).reshape(rows, columns) + 0.5 * r for r in range(comm.size)]
        want = expected(call, everyone, comm.rank)
        ways = (np.copy, padded, np.asfortranarray, lambda x: x.copy().view(Kept))
        for turn in range(len(ways)):
            way = ways[(comm.rank + turn) % len(ways)]
            for out in (None, None if want is None else way(np.full(want.shape, np.nan))):
                x = way(everyone[comm.rank])
                got = CALLS[call](comm, x, out)
                assert (got is None) == (want is None)
                if want is not None:
                    assert got.shape == want.shape
                    assert np.array_equal(got, want)
                    assert got is (x if call == "broadcast" else got if out is None else out)

    world.run(program, call, columns)


def test_what_does_not_fit_is_refused_and_stays(world: World) -> None:
    def program(comm: Comm) -> None:
        x = np.arange(6.0)
        if comm.rank == 0:
            for dest in range(1, comm.size):
                comm.send(x, dest, 1)
                comm.send_object({"x": 1}, dest, 2)
        else:
            for wrong in (np.zeros(5), np.zeros((6, 1)), np.zeros(6, np.float32)):
                with pytest.raises((TypeError, ValueError), match="out"):
                    comm.recv(wrong, 0, 1)
            with pytest.raises(TypeError, match="recv_object"):
                comm.recv(np.zeros(6), ANY, 2)
            assert comm.recv_object(0, 2) == {"x": 1}
            assert comm.recv(np.zeros(6), ANY, ANY).tolist() == x.tolist()

    world.run(program)


def test_a_read_only_array_is_sent_and_receives_nothing(world: World) -> None:
    def program(comm: Comm) -> None:
        x = np.ones(4)
        x.flags.writeable = False
        assert comm.allreduce(x).tolist() == [comm.size] * 4
        for refused in (lambda: comm.allreduce(np.ones(4), out=x), lambda: comm.recv(x, 0)):
            with pytest.raises(ValueError, match="read-only"):
                refused()
        if comm.rank == 0:
            assert comm.broadcast(x) is x
        else:
            with pytest.raises(ValueError, match="read-only"):
                comm.broadcast(x)
            comm.broadcast(None)

    world.run(program)


def test_calls_in_progress_come_first(world: World) -> None:
    """A blocking call of plain arrays waits for its turn behind those that were started before."""

    def program(comm: Comm) -> None:
        for count in (1, 100_000):
            started = [comm.iallreduce(np.full(count, k)) for k in range(5)]
            assert comm.allreduce(np.full(count, 7))[0] == 7 * comm.size
            assert [work.wait()[0] for work in started] == [k * comm.size for k in range(5)]
            if comm.rank < 2 and comm.size > 1:
                other = 1 - comm.rank
                first = comm.isend(np.full(count, 1), other)
                receive = comm.irecv(None, other)
                if comm.rank == 0:
                    comm.send(np.full(count, 2), other)
                    assert comm.recv(np.zeros(count, int), other)[0] == 2
                else:
                    assert comm.recv(np.zeros(count, int), other)[0] == 2
                    comm.send(np.full(count, 2), other)
                first.wait()
                assert receive.wait()[0] == 1

    world.run(program)


def test_a_result_with_more_rows_than_can_be_counted_is_refused(world: World) -> None:
    def program(comm: Comm) -> None:
        if comm.size > 1:
            with pytest.raises(ValueError, match="dimension"):
                comm.allgather(np.empty((2**62, 0), np.uint8))
        comm.barrier()

    world.run(program)
