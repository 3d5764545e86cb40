"""What goes wrong between ranks: every rank hears of it, and of who and why; nothing hangs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import commops
from commops import Comm

from .layouts import Layout
from .world import Died, Raised, World, errors

LAYOUTS = [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab"), Layout("aabb"), Layout("abaab")]
Fresh = Callable[..., World]


# ---------------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("n", [2, 100_000])
def test_a_deadline_names_who_came_and_who_did_not(fresh: Fresh, layout: Layout, n: int) -> None:
    def program(comm: Comm, n: int) -> None:
        comm.allreduce(np.zeros(n))
        if comm.rank != 1:
            comm.timeout = 0.5
            comm.allreduce(np.zeros(n))

    world = fresh(layout)
    ends = world.outcomes(program, n)
    others = [rank for rank in range(layout.size) if rank != 1]
    assert ends[1] is None
    for text in errors([ends[rank] for rank in others], commops.CommTimeoutError):
        assert f"arrived: {', '.join(map(str, others))}; missing: 1" in text
        assert "allreduce passed its deadline of 0.5 s" in text
    assert isinstance(ends[0].error, TimeoutError)


def test_a_message_that_does_not_come_breaks_nothing(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        comm.timeout = 0.2
        with pytest.raises(commops.CommTimeoutError, match=r"within 0\.2 s"):
            comm.recv(source=1, tag=8)
        with pytest.raises(commops.CommTimeoutError, match=r"within 0\.2 s"):
            comm.probe(tag=8)
        comm.timeout = 30
        assert comm.allreduce(np.array(1)) == comm.size
        if comm.rank == 1:
            comm.send(np.array(5), 0, 8)
        elif comm.rank == 0:
            assert comm.recv(source=1, tag=8) == 5

    for layout in LAYOUTS:
        fresh(layout).run(program)


def test_a_send_that_nobody_receives_passes_its_deadline(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            comm.timeout = 0.3
            with pytest.raises(commops.CommTimeoutError, match=r"within 0\.3 s"):
                comm.send(np.zeros(1_000_000), 1)
            comm.timeout = 30
        comm.barrier()
        assert comm.allreduce(np.array(1)) == comm.size

    for layout in LAYOUTS:
        fresh(layout).run(program)


# ---------------------------------------------------------------------------------------- deaths


def is_told(ends: list[Any], dead: int) -> None:
    assert isinstance(ends[dead], Died)
    for rank, end in enumerate(ends):
        if rank != dead:
            assert isinstance(end, Raised), f"rank {rank}: {end}"
            assert isinstance(end.error, commops.PeerLostError), f"rank {rank}: {end.trace}"
            assert end.error.ranks == (dead,), f"rank {rank}: {end.error}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("n", [2, 300_000])
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_rank_that_dies_before_a_collective(fresh: Fresh, layout: Layout, n: int, how: str) -> None:
    def program(comm: Comm, dead: int, n: int, how: str) -> None:
        comm.allreduce(np.zeros(n))
        if comm.rank == dead:
            if how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        comm.allreduce(np.zeros(n))

    for dead in (0, layout.size - 1):
        is_told(fresh(layout).outcomes(program, dead, n, how), dead)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("call", ["barrier", "allreduce", "recv", "recv any", "probe", "work", "send"])
def test_a_rank_that_dies_while_others_wait_for_it(fresh: Fresh, layout: Layout, call: str) -> None:
    def program(comm: Comm, dead: int, call: str) -> None:
        comm.barrier()
        if comm.rank == dead:
            time.sleep(60)
        match call:
            case "barrier":
                comm.barrier()
            case "allreduce":
                comm.allreduce(np.zeros(300_000))
            case "recv":
                comm.recv(source=dead)
            case "recv any":
                comm.recv()
            case "probe":
                comm.probe(source=dead)
            case "work":
                comm.iallgather(np.zeros(3)).wait()
            case "send":
                comm.send(np.zeros(1_000_000), dead)

    world = fresh(layout)
    dead = 1
    world.start(program, dead, call)
    time.sleep(0.2)  # most of them wait by now; whether they do makes no difference to what they are told
    world.signal(dead, signal.SIGKILL)
    is_told(world.collect(), dead)


def test_groups_without_the_dead_rank_go_on(fresh: Fresh) -> None:
    def divide(comm: Comm) -> None:
        sys.modules["__main__"].__dict__["group"] = comm.split(0 if comm.rank == 1 else 1)

    def lose(comm: Comm) -> int:
        if comm.rank == 1:
            os._exit(0)
        with pytest.raises(commops.PeerLostError):
            comm.barrier()
        total: int = sys.modules["__main__"].__dict__["group"].allreduce(np.array(1)).item()
        return total

    for layout in LAYOUTS:
        world = fresh(layout)
        # In two programs, so that nobody is still in the split when the rank dies.
        world.run(divide)
        ends = world.outcomes(lose)
        assert isinstance(ends.pop(1), Died)
        assert ends == [layout.size - 1] * len(ends)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_rank_that_closes_early(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        comm.allreduce(np.zeros(10))
        if comm.rank == 1:
            comm.close()
        else:
            comm.allreduce(np.zeros(10))

    ends = fresh(layout).outcomes(program)
    assert ends.pop(1) is None
    for text in errors(ends, commops.PeerLostError):
        assert "rank 1 has closed the communicator" in text
    assert all(end.error.ranks == (1,) for end in ends)


def test_who_waits_for_a_rank_of_its_host_that_has_closed_hears_of_it_though_they_never_met(
    fresh: Fresh,
) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 1:
            comm.close()
        elif comm.rank == 0:
            comm.recv(source=1)

    for layout in (Layout("aaa", "shm"), Layout("aab")):
        ends = fresh(layout, timeout=3600).outcomes(program)
        assert "rank 1 has closed the communicator" in errors([ends[0]], commops.PeerLostError)[0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_a_rank_did_before_it_closed_counts(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        n = 200_000
        if comm.rank == 1:
            comm.send(np.arange(10), 0, 1)
            work = comm.isend(np.arange(n), 0, 2)
            comm.iallreduce(np.ones(n)).wait()
            work.wait()
            comm.close()
        else:
            assert comm.allreduce(np.ones(n))[-1] == comm.size
            if comm.rank == 0:
                assert np.array_equal(comm.recv(source=1, tag=2), np.arange(n))
                time.sleep(0.2)
                assert np.array_equal(comm.recv(source=1, tag=1), np.arange(10))
                with pytest.raises(commops.PeerLostError, match="closed"):
                    comm.recv(source=1)

    fresh(layout).run(program)


# ---------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("layout", [Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab")], ids=str)
@pytest.mark.parametrize("call", ["allreduce", "large", "recv", "send", "probe", "work", "object"])
def test_ctrl_c_ends_a_blocking_call(fresh: Fresh, layout: Layout, call: str) -> None:
    def program(comm: Comm, call: str) -> None:
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.5)
            return
        match call:
            case "allreduce":
                comm.allreduce(np.zeros(3))
            case "large":
                comm.allreduce(np.zeros(300_000))
            case "recv":
                comm.recv()
            case "send":
                comm.send(np.zeros(1_000_000), 1)
            case "probe":
                comm.probe()
            case "work":
                comm.iallreduce(np.zeros(3)).wait()
            case "object":
                comm.allgather_object("text")

    world = fresh(layout)
    world.start(program, call)
    time.sleep(0.2)
    world.signal(0, signal.SIGINT)
    ends = world.collect()
    assert isinstance(ends[0], Raised)
    assert isinstance(ends[0].error, KeyboardInterrupt), ends[0].trace


def test_a_signal_handler_runs_in_a_blocking_call_which_goes_on(fresh: Fresh) -> None:
    def program(comm: Comm) -> tuple[int, float]:
        seen = []
        signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.5)
        return sum(seen), comm.allreduce(np.array(1.0)).item()

    for layout in (Layout("aa", "shm"), Layout("aa", "tcp")):
        world = fresh(layout)
        world.start(program)
        time.sleep(0.25)
        world.signal(0, signal.SIGUSR2)
        (_, total), _ = world.collect()
        assert total == 2
