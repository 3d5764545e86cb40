"""A rank is killed at a random instant of a collective: all others say so at once, and go on without it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import commops
from comm.layouts import SMALL, Layout
from comm.world import Died, Raised, World
from commops import Comm

Fresh = Callable[..., World]

LAYOUTS = [Layout("aaa", "shm"), Layout("aaaa", "shm", SMALL), Layout("aaa", "tcp"), Layout("aabb")]
CALLS: dict[str, Callable[[Comm, int], object]] = {
    "barrier": lambda c, n: c.barrier(),
    "broadcast": lambda c, n: c.broadcast(np.ones(n)),
    "allreduce": lambda c, n: c.allreduce(np.ones(n)),
    "reduce": lambda c, n: c.reduce(np.ones(n)),
    "reduce_scatter": lambda c, n: c.reduce_scatter(np.ones(n * c.size)),
    "scan": lambda c, n: c.scan(np.ones(n)),
    "scatter": lambda c, n: c.scatter(np.ones(n * c.size) if c.rank == 0 else None),
    "gather": lambda c, n: c.gather(np.ones(n)),
    "allgather": lambda c, n: c.allgather(np.ones(n)),
    "alltoall": lambda c, n: c.alltoall(np.ones(n * c.size)),
    "objects": lambda c, n: c.allgather_object("x" * n),
    "messages": lambda c, n: c.sendrecv(np.ones(n), (c.rank + 1) % c.size, (c.rank - 1) % c.size),
    "iallreduce": lambda c, n: c.iallreduce(np.ones(n)).wait(),
}
WITHIN = {"shm": 1.0, "tcp": 2.0, "auto": 2.0}
"""Seconds from the death to the error, by transport."""


def endure(comm: Comm, call: Callable[[Comm, int], object], n: int, left: int) -> tuple[Any, ...]:
    """Call until only so many are left; then see that their communicator works."""
    told: list[Any] = []
    shrunk = 0.0
    while True:
        try:
            if comm.size > left:
                call(comm, n)
                continue
            for size in (1, 1000, 200_000):
                total = comm.allreduce(np.full(size, 1.0 + comm.rank))
                assert (total == comm.size * (comm.size + 1) / 2).all()
            return told, shrunk, comm.rank, comm.size, comm.generation
        except commops.PeerLostError as error:
            told.append((error.ranks, error.cause, time.monotonic()))
            comm = comm.shrink()
            shrunk = time.monotonic()


def survivors(ends: list[Any], dead: set[int]) -> list[Any]:
    for rank, end in enumerate(ends):
        if rank in dead:
            assert isinstance(end, Died)
        else:
            assert not isinstance(end, Died | Raised), f"rank {rank}: {getattr(end, 'trace', end)}"
    return [end for rank, end in enumerate(ends) if rank not in dead]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_all_hear_of_a_death_and_go_on(fresh: Fresh, layout: Layout, name: str) -> None:
    chance = random.Random(f"{layout} {name}")
    for n in (3, 5_000, 150_000):
        dead = chance.randrange(layout.size)
        world = fresh(layout)
        world.start(endure, CALLS[name], n, layout.size - 1)
        time.sleep(chance.uniform(0, 0.04))  # an instant like any other
        killed = time.monotonic()
        world.signal(dead, signal.SIGKILL)
        ends = survivors(world.collect(), {dead})
        causes = set()
        for place, (told, shrunk, rank, size, generation) in enumerate(ends):
            ((ranks, cause, noticed),) = told
            assert ranks == (dead,)
            assert noticed - killed < WITHIN[layout.transport], cause
            assert shrunk - killed < 2 * WITHIN[layout.transport]
            assert (rank, size, generation) == (place, layout.size - 1, 1)
            causes.add(cause)
        assert len(causes) == 1, causes
        if layout.transport != "tcp":  # who shares the dead rank's host knows how it ended
            assert f"killed by SIGKILL on {host(layout, dead)}" in causes.pop()


def host(layout: Layout, rank: int) -> str:
    return f"host-{layout.hosts[rank]}" if len(set(layout.hosts)) > 1 else os.uname().nodename


@pytest.mark.parametrize("layout", [Layout("aaaaa", "shm"), Layout("aaaa", "tcp"), Layout("aabcc")], ids=str)
def test_a_second_death_while_the_others_shrink(fresh: Fresh, layout: Layout) -> None:
    chance = random.Random(str(layout))
    for _ in range(12):
        first, second = chance.sample(range(layout.size), 2)
        world = fresh(layout)
        world.start(endure, CALLS["allreduce"], 1000, layout.size - 2)
        time.sleep(chance.uniform(0, 0.02))
        world.signal(first, signal.SIGKILL)
        time.sleep(chance.choice([0, chance.uniform(0, 0.01)]))
        killed = time.monotonic()
        world.signal(second, signal.SIGKILL)
        ends = survivors(world.collect(), {first, second})
        assert [(rank, size) for _, _, rank, size, _ in ends] == [
            (place, layout.size - 2) for place in range(layout.size - 2)
        ]
        assert max(shrunk for _, shrunk, *_ in ends) - killed < 5


@pytest.mark.parametrize("layout", [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab")], ids=str)
def test_a_rank_that_dies_before_the_first_call_of_a_group(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm, dead: int) -> tuple[Any, ...]:
        group = comm.split(0, -comm.rank)
        assert group is not None
        with contextlib.suppress(commops.PeerLostError):
            comm.barrier()  # who is through it knows that all have the group; others may hear of a death
        if comm.rank == dead:
            os.kill(os.getpid(), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(commops.PeerLostError) as caught:
            group.allreduce(np.ones(2))
        left = group.shrink()
        return caught.value.ranks, time.monotonic() - start, left.allreduce(np.array(comm.rank)).item()

    for dead in range(layout.size):
        ends = survivors(fresh(layout).outcomes(program, dead), {dead})
        for ranks, seconds, total in ends:
            assert ranks == (layout.size - 1 - dead,)  # as numbered in the group
            assert seconds < WITHIN[layout.transport]
            assert total == sum(range(layout.size)) - dead


def test_a_lonely_survivor_goes_on_alone(fresh: Fresh) -> None:
    for layout in (Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab")):
        for dead in (0, 1):
            world = fresh(layout)
            world.start(endure, CALLS["allreduce"], 10, 1)
            world.signal(dead, signal.SIGKILL)
            ((_, _, rank, size, _),) = survivors(world.collect(), {dead})
            assert (rank, size) == (0, 1)


@pytest.mark.parametrize("layout", [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aba")], ids=str)
def test_a_child_that_lives_on_hides_no_death(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> tuple[Any, ...]:
        comm.alltoall(np.ones(comm.size))  # there is a connection to everybody
        if comm.rank == 1:
            if os.fork() == 0:
                time.sleep(6)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(commops.PeerLostError) as caught:
            comm.barrier()
        seconds = time.monotonic() - start
        return caught.value.ranks, seconds, comm.shrink().allreduce(np.array(1)).item()

    for ranks, seconds, total in survivors(fresh(layout).outcomes(program), {1}):
        assert ranks == (1,)
        assert seconds < 4  # not when the child has ended too
        assert total == layout.size - 1
