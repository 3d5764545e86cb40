"""A reduction gives the same bits on every rank and in every run, and half types are rounded once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from commops import Comm

from .layouts import EVERY, Layout
from .world import World

DTYPES = {
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64,
    "longdouble": np.longdouble, "complex64": np.complex64,
}  # fmt: skip


def numbers(rank: int, n: int, dtype: str) -> np.ndarray:
    """Return values whose sum depends on the order."""
    rng = np.random.default_rng(rank)
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4, n)).astype(DTYPES[dtype])


def bits(comm: Comm, n: int, dtype: str, op: str, runs: int) -> set[bytes]:
    x = numbers(comm.rank, n, dtype)
    found = set()
    for run in range(runs):
        if run % 2 and (comm.rank + run) % comm.size == 0:
            sum(range(5000))  # come late
        got = comm.allreduce(x, op) if run % 3 else comm.iallreduce(x, op).wait()
        found.add(got.tobytes() if dtype != "longdouble" else str(got.tolist()).encode())
    return found


@pytest.mark.parametrize("layout", EVERY, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_rank_and_run_has_the_same_bits(world: World, dtype: str) -> None:
    for n in (3, 1000, 30_000):
        for op in ("sum", "mean", "prod"):
            found = set().union(*world.run(bits, n, dtype, op, 4))
            assert len(found) == 1, f"{n} × {dtype}, {op}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_every_dtype(world: World, dtype: str) -> None:
    assert len(set().union(*world.run(bits, 500, dtype, "sum", 6))) == 1


def every_result(comm: Comm, n: int, dtype: str) -> list[np.ndarray]:
    x = numbers(comm.rank, n * comm.size, dtype)
    total = comm.allreduce(x)
    at_root = comm.gather(comm.reduce_scatter(x))
    rooted = comm.reduce(x)
    return [total] if rooted is None else [total, at_root, rooted]


@pytest.mark.parametrize("layout", EVERY, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_summed_in_float32_and_rounded_once(world: World, dtype: str) -> None:
    """Within half a step of the exact sum, and a little for float32: a sum in half precision would be off."""
    for n in (3, 3000):
        exact = sum(numbers(rank, n * world.size, dtype).astype(np.float64) for rank in range(world.size))
        scale = sum(
            abs(numbers(rank, n * world.size, dtype).astype(np.float64)) for rank in range(world.size)
        )
        for total in world.run(every_result, n, dtype):
            for got in total:
                step = (
                    np.spacing(abs(got)).astype(np.float64)
                    if dtype == "float16"
                    else abs(got.astype(np.float64)) * 2.0**-7
                )
                assert (abs(got.astype(np.float64) - exact) <= 0.501 * step + scale * 2.0**-21).all()


def test_layouts_are_what_they_say() -> None:
    """The names of the tests tell on which ranks they ran."""
    assert str(Layout("aabb")) == "auto-aabb"
    assert str(Layout("aaa", "shm")) == "shm-3"
    assert len({str(layout) for layout in EVERY}) == len(EVERY)
