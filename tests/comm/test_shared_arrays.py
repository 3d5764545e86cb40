"""comm.empty and comm.zeros: ordinary arrays in memory that the ranks of a host share."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from commops import Comm

from .cases import DTYPES
from .layouts import ALL, FEW, Layout
from .world import World


@pytest.mark.parametrize("layout", ALL, ids=str)
def test_they_are_arrays_like_others(world: World) -> None:
    def program(comm: Comm, names: list[str]) -> None:
        for name in names:
            for shape in (7, (), (0,), (3, 0), (3, 4), [2, 5], np.int64(3)):
                array = comm.zeros(shape, DTYPES[name])
                wanted = np.zeros(shape, DTYPES[name])
                assert type(array) is np.ndarray
                assert array.dtype == wanted.dtype
                assert array.shape == wanted.shape
                assert array.flags.c_contiguous
                assert array.flags.writeable
                assert array.flags.aligned
                assert array.ctypes.data % 64 == 0 or not array.size
                assert (array == wanted).all()
        assert comm.empty(3).dtype == np.float64

    world.run(program, list(DTYPES))


def test_their_memory_comes_back(world: World) -> None:
    def program(comm: Comm) -> None:
        window = comm._core.window
        comm.allreduce(comm.zeros((5, 2)))  # the pipes between ranks that these calls use stay
        gc.collect()
        before = window.used
        kept = comm.zeros(100_000)
        assert window.used >= before + 800_000
        view = kept[10:20].reshape(2, 5).T
        del kept
        gc.collect()
        assert window.used >= before + 800_000
        view[...] = 3
        assert comm.allreduce(view).tolist() == (view * comm.size).tolist()
        work = comm.iallreduce(view)
        del view
        work.wait()
        del work
        gc.collect()
        assert window.used == before
        for _ in range(50):
            comm.empty(1_000_000)
        gc.collect()
        assert window.used == before

    world.run(program)


def test_they_outlive_their_communicator(fresh: Callable[..., World]) -> None:
    def program(comm: Comm) -> float:
        child = comm.dup()
        arrays = [child.zeros(1000), comm.zeros(1000)]
        child.close()
        for array in arrays:
            array += comm.rank
        assert comm.allreduce(arrays[0])[0] == comm.allreduce(arrays[1])[0] == comm.size * (comm.size - 1) / 2
        comm.barrier()
        comm.close()
        for array in arrays:
            array += 1
        return float(arrays[0].sum() + arrays[1].sum())

    for layout in FEW:
        assert fresh(layout).run(program) == [2000.0 * (rank + 1) for rank in range(layout.size)]


def test_ranks_may_ask_for_different_shapes(world: World) -> None:
    def program(comm: Comm) -> None:
        array = comm.zeros((comm.rank, 1000), np.int16 if comm.rank else np.complex128)
        array[...] = comm.rank
        comm.barrier()
        assert (array == comm.rank).all()

    world.run(program)


@pytest.mark.parametrize("n", [1, 5000, 100_000, 2_000_000])
def test_collectives_in_place_on_them(world: World, n: int) -> None:
    def program(comm: Comm, n: int) -> None:
        x = comm.empty(n, np.int64)
        y = comm.empty(n * comm.size, np.int64)
        for round_ in range(3):
            x[...] = np.arange(n) + comm.rank + round_
            assert comm.allreduce(x, out=x) is x
            total = comm.size * (np.arange(n) + round_) + comm.size * (comm.size - 1) // 2
            assert np.array_equal(x, total)
            x[...] = comm.rank + round_  # at once: nobody may read what was there any more
            assert comm.allgather(x, out=y) is y
            assert np.array_equal(y.reshape(comm.size, n)[:, 0], np.arange(comm.size) + round_)
            assert np.array_equal(
                comm.alltoall(y).reshape(comm.size, n)[:, -1], np.full(comm.size, comm.rank + round_)
            )
            y[...] = -1
            comm.broadcast(x, round_ % comm.size)
            assert (x == round_ % comm.size + round_).all()
            x[...] = 0
            assert (comm.reduce_scatter(y, "sum", out=x) == -comm.size).all()
            comm.reduce(x, "max", 0, out=x)
            assert (x == -comm.size).all()

    world.run(program, n)


@pytest.mark.parametrize("n", [40_000, 1_000_000])
def test_what_is_written_after_a_call_does_not_reach_it(world: World, n: int) -> None:
    """Ranks of different speed: each overwrites its array as soon as its own call has ended."""

    def program(comm: Comm, n: int) -> None:
        x = comm.empty(n, np.int64)
        rng = np.random.default_rng(comm.rank)
        for i in range(30):
            x[...] = i
            root = i % comm.size
            call = i % 5
            if call == 0:
                assert (comm.allreduce(x) == i * comm.size).all()
            elif call == 1:
                got = comm.broadcast(x if comm.rank == root else None, root)
                assert (got == i).all()
            elif call == 2:
                got = comm.gather(x, root)
                assert got is None or (got == i).all()
            elif call == 3:
                got = comm.reduce(x, "sum", root)
                assert got is None or (got == i * comm.size).all()
            else:
                assert (comm.scan(x) == i * (comm.rank + 1)).all()
            x[...] = -1000
            if rng.random() < 0.3:
                sum(range(20_000))

    world.run(program, n)


def test_too_much_is_a_memory_error_on_all_ranks(world: World) -> None:
    def program(comm: Comm, n: int) -> Any:
        with pytest.raises(MemoryError) as caught:
            comm.empty(n if comm.rank == 1 else 10)
        assert comm.allreduce(np.array(1)) == comm.size
        return str(caught.value)

    for n in (2**55, 2**62):
        assert all("ranks [1] cannot reserve" in text for text in world.run(program, n))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((2.5,), TypeError, "shape must be a whole number or a sequence of them, not 2.5"),
        (((2, "3"),), TypeError, r"shape must be a whole number or a sequence of them, not \(2, '3'\)"),
        ((None,), TypeError, "shape must be a whole number or a sequence of them, not None"),
        (("abc",), TypeError, "shape must be a whole number or a sequence of them, not 'abc'"),
        ((-1,), ValueError, r"shape must not have negative dimensions: \(-1,\)"),
        (((2**63, 0),), ValueError, "shape must not have dimensions above"),
        (((1,) * 65,), ValueError, "shape must have at most 64 dimensions, not 65"),
        ((3, "nosuch"), TypeError, "dtype must be a NumPy dtype, not 'nosuch'"),
        ((3, 8), TypeError, "dtype must be a NumPy dtype, not 8"),
        ((3, object), TypeError, "dtype must be a bool or numeric dtype .* not object"),
        ((3, "U5"), TypeError, "dtype must be a bool or numeric dtype .* not <U5"),
        ((3, ">f8"), TypeError, "dtype must be .* in this machine's byte order"),
    ],
)
def test_bad_arguments(world: World, arguments: Any, error: type[Exception], text: str) -> None:
    def program(comm: Comm, arguments: Any, error: type[Exception], text: str) -> None:
        for call in (comm.empty, comm.zeros):
            with pytest.raises(error, match=text):
                call(*arguments)
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program, arguments, error, text)


@pytest.mark.parametrize("shape", [3, np.int64(3), (3,), [3], np.array([3]), (), (2, 0), range(1, 4)])
def test_a_shape_is_what_numpy_takes_for_one(world: World, shape: Any) -> None:
    def program(comm: Comm, shape: Any) -> None:
        assert comm.zeros(shape, "i4").shape == np.zeros(shape).shape
        assert comm.empty(shape, None).dtype == np.float64

    world.run(program, shape)


def test_on_one_rank_alone(worlds: Callable[[Layout], World]) -> None:
    def program(comm: Comm) -> None:
        x = comm.zeros(10)
        x += 1
        assert comm.allreduce(x, out=x).tolist() == [1] * 10

    worlds(Layout("a", "shm")).run(program)
