"""What a long run leaves behind: no memory, no descriptors, no room in the windows."""

from __future__ import annotations

import os

import numpy as np
import pytest

from commops import Comm

from .layouts import PAIRS, Layout
from .memory import resident_memory
from .world import World

MUCH = 1 << 20  # bytes; an object of 16 left behind by each of a million calls would be 16 times this
SMALL_AND_LARGE = (2, 100, 5_000, 200_000)


def all_kinds(comm: Comm, count: int) -> None:
    x = np.ones(count, np.float32)
    comm.allreduce(x)
    comm.allgather(x)
    comm.broadcast(x)
    comm.gather(x)
    comm.scatter(np.ones(count * comm.size) if comm.rank == 0 else None)
    comm.reduce_scatter(np.ones(count * comm.size))
    comm.alltoall(np.ones(count * comm.size))
    comm.scan(x)
    comm.iallreduce(x).wait()
    comm.allgather_object({"rank": comm.rank, "x": x[:10]})
    comm.send(x, (comm.rank + 1) % comm.size) if comm.rank == 0 else comm.recv(source=0)


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_a_million_calls(world: World, layout: Layout) -> None:
    calls = 1_000_000 if layout.transport == "shm" else 50_000  # which take as long

    def program(comm: Comm, calls: int) -> int:
        x, out = np.ones(2, np.float32), np.ones(2, np.float32)
        before = 0
        for part in range(5):
            if part == 1:  # the first part warms up
                before = resident_memory()
            for _ in range(calls // 5):
                comm.allreduce(x, out=out)
        return resident_memory() - before

    assert max(world.run(program, calls)) < MUCH


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_calls_of_every_kind(world: World, layout: Layout) -> None:
    def program(comm: Comm) -> int:
        before = 0
        for i in range(60):
            if i == 30:  # all slots and pipes have been used, and the allocator knows what is wanted
                before = resident_memory()
            for count in SMALL_AND_LARGE:
                all_kinds(comm, count)
        return resident_memory() - before

    assert max(world.run(program)) < 4 * MUCH


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_a_thousand_communicators(world: World, layout: Layout) -> None:
    def program(comm: Comm) -> tuple[int, int]:
        memory = descriptors = 0
        for i in range(1_000):
            if i == 200:
                memory, descriptors = resident_memory(), len(os.listdir("/proc/self/fd"))
            with comm.split(color=0, key=i % 3) as part:
                part.allreduce(np.ones(3_000))
        return resident_memory() - memory, len(os.listdir("/proc/self/fd")) - descriptors

    for grown, opened in world.run(program):
        assert grown < 2 * MUCH
        assert opened == 0
