"""Which object a call returns, and of which type: for arrays that are not the most ordinary ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from commops import Comm

from .world import World


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 2), (400_000,)])
@pytest.mark.parametrize("op", ["sum", "max", "mean"])
def test_allreduce_returns_out_or_a_new_array(world: World, shape: Any, op: str) -> None:
    def program(comm: Comm, shape: Any, op: str) -> None:
        x = np.full(shape, comm.rank + 1.0)
        n = comm.size
        want = np.full(shape, {"sum": n * (n + 1) / 2, "max": n, "mean": (n + 1) / 2}[op])
        out = np.full(shape, np.nan)
        new = comm.allreduce(x, op)
        assert type(new) is np.ndarray
        assert not np.may_share_memory(new, x)
        for got, wanted in ((new, new), (comm.allreduce(x, op, out), out), (comm.allreduce(x, op, x), x)):
            assert got is wanted
            assert got.dtype == np.float64
            assert got.shape == shape
            assert np.array_equal(got, want)

    world.run(program, shape, op)


def test_c_types_of_one_width_are_one_dtype(world: World) -> None:
    """NumPy numbers long and long long apart, though both are int64."""

    def program(comm: Comm) -> None:
        for one, other in ("lq", "ql", "LQ", "QL"):
            x = np.arange(3).astype(one)
            assert comm.allreduce(x).dtype.char == one
            out = np.zeros(3, other)
            assert comm.allreduce(x, out=out) is out
            assert out.tolist() == [0, comm.size, 2 * comm.size]

    world.run(program)


def test_ranks_may_differ_in_how_their_arrays_lie(world: World) -> None:
    def program(comm: Comm) -> None:
        x = np.arange(12.0).reshape(3, 4)
        mine = (x, np.asfortranarray(x), x[::-1][::-1].view(np.matrix))[comm.rank % 3]
        got = comm.allreduce(mine)
        assert type(got) is np.ndarray
        assert np.array_equal(got, x * comm.size)

    world.run(program)


def test_numpy_scalars_are_0d_arrays(world: World) -> None:
    def program(comm: Comm) -> None:
        n = comm.size
        for got, want in (
            (comm.allreduce(np.float32(2)), 2 * n),
            (comm.broadcast(np.int64(7) if comm.rank == 1 else None, 1), 7),
            (comm.scan(np.int8(1)), comm.rank + 1),
        ):
            assert isinstance(got, np.ndarray)
            assert got.shape == ()
            assert got == want
        assert comm.allgather(np.int64(comm.rank)).tolist() == list(range(n))

    world.run(program)


def test_broadcast_returns_x_itself_also_of_a_subclass(world: World) -> None:
    def program(comm: Comm) -> None:
        for root in range(comm.size):
            x = np.full((2, 2), comm.rank).view(np.matrix)
            assert comm.broadcast(x, root) is x
            assert (np.asarray(x) == root).all()

    world.run(program)


@pytest.mark.parametrize("block", [2, 50_000])
@pytest.mark.parametrize("start", [-2, -1, 1, 3])
def test_out_may_overlap_x_in_part(world: World, start: int, block: int) -> None:
    def program(comm: Comm, start: int, block: int) -> None:
        n, rank = comm.size, comm.rank
        values = np.arange(2.0, 2.0 + block * n)
        own = slice(block * rank, block * (rank + 1))
        right, left = (rank + 1) % n, (rank - 1) % n
        whole, all_of_all = block * n, block * n * n
        for call, length, want in (
            (lambda x, out: comm.allreduce(x, out=out), whole, values * n),
            (lambda x, out: comm.allreduce(x, np.add, out), whole, values * n),
            (lambda x, out: comm.iallreduce(x, out=out).wait(), whole, values * n),
            (lambda x, out: comm.reduce(x, root=1, out=out), whole, values * n if rank == 1 else None),
            (lambda x, out: comm.scan(x, out=out), whole, values * (rank + 1)),
            (lambda x, out: comm.reduce_scatter(x, out=out), block, values[own] * n),
            (lambda x, out: comm.reduce_scatter(x, np.add, out), block, values[own] * n),
            (lambda x, out: comm.allgather(x, out), all_of_all, np.tile(values, n)),
            (lambda x, out: comm.gather(x, 0, out), all_of_all, np.tile(values, n) if rank == 0 else None),
            (lambda x, out: comm.alltoall(x, out), whole, np.tile(values[own], n)),
            (lambda x, out: comm.alltoall(x, out, [block] * n), whole, np.tile(values[own], n)),
            (lambda x, out: comm.scatter(x, 0, out), block, values[own]),
            (lambda x, out: comm.sendrecv(x, right, left, out), whole, values),
        ):
            memory = np.full(5 + all_of_all, -1.0)
            x, out = memory[2 : 2 + whole], memory[2 + start : 2 + start + length]
            x[:] = values
            got = call(x, out)
            assert (got is None) == (want is None)
            if want is not None:
                assert got is out
                assert np.array_equal(out, want)

    world.run(program, start, block)


def test_a_function_must_return_what_it_is_given(world: World) -> None:
    def program(comm: Comm) -> None:
        if comm.size == 1:
            return
        for op in (lambda a, b: np.ones(7, a.dtype), lambda a, b: a.astype(np.float32), lambda a, b: None):
            with pytest.raises(TypeError, match="op must return"):
                comm.allreduce(np.ones(3), op)
        assert comm.allreduce(np.ones(3), np.add).tolist() == [comm.size] * 3

    world.run(program)
