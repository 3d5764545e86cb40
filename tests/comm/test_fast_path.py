"""Blocking calls take a fast path through the core; what happens meanwhile must not be missed."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import commops
from commops import ANY, Comm

from .world import World

CALLS = 1000


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_threads_with_a_communicator_each(world: World, count: int) -> None:
    def program(comm: Comm, count: int) -> None:
        wrong: list[object] = []

        def work(own: Comm) -> None:
            try:
                for _ in range(300):
                    if not (own.allreduce(np.ones(count)) == own.size).all():
                        wrong.append(count)
            except commops.CommError as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(comm.dup(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    world.run(program, count)


@pytest.mark.parametrize("source", ["named", "any"])
def test_a_rank_that_closes_just_then_is_noticed(world: World, source: str) -> None:
    def program(comm: Comm, source: str) -> None:
        for _ in range(12):
            child = comm.dup()
            if comm.rank == 0:
                with pytest.raises(commops.PeerLostError):
                    child.recv(np.zeros(3), comm.size - 1 if source == "named" else ANY)
            child.close()

    if world.size > 1:
        world.run(program, source)


def test_a_send_whose_receiver_closes_just_then_is_over(world: World) -> None:
    def program(comm: Comm) -> None:
        for _ in range(8):
            child = comm.dup()
            if comm.rank == 0:
                with pytest.raises(commops.PeerLostError):
                    child.send(np.zeros(100_000), comm.size - 1)
            child.close()

    if world.size > 1:
        world.run(program)


def test_barrier_and_ibarrier_are_one_call(world: World) -> None:
    def program(comm: Comm) -> None:
        for turn in range(4):
            if (comm.rank + turn) % 2:
                comm.ibarrier().wait()
            else:
                comm.barrier()

    world.run(program)


def test_what_a_receive_has_to_answer_goes_out_before_it_returns(world: World, tmp_path: Path) -> None:
    """A sender waits for the answer to its message, and the receiver calls nothing more for a while."""

    def program(comm: Comm, sent: Path) -> None:
        small, large = [np.zeros(1)] * 100, [np.zeros(2000)] * 65  # more than may wait at a receiver
        if comm.rank == 1:
            works = [comm.isend(x, 0) for x in (*large, *small)]
            comm.send(np.zeros(0), 0, 1)
            sent.touch()
            for work in works:
                work.wait()
        elif comm.rank == 0:
            comm.probe(1, 1)
            comm.recv(np.zeros(0), 1, 1)
            end = time.monotonic() + 20
            while not sent.exists():  # without a call in which the answer could go out
                assert time.monotonic() < end
                time.sleep(0.001)
            for x in (*large, *small):
                comm.recv(np.empty_like(x), 1, 0)
        comm.barrier()

    if world.size > 1:
        world.run(program, tmp_path / "sent")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core, ranks give way in any case")
def test_ranks_on_one_core_give_way_instead_of_sleeping() -> None:
    """The scheduler may put two ranks on one core for a while, though others are free."""

    def program(comm: Comm) -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # after init counted them
        x = np.ones(8)
        for _ in range(100):
            comm.allreduce(x)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for _ in range(CALLS):
            comm.allreduce(x)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    assert max(commops.launch(program, 2, transport="shm")) < CALLS // 2
