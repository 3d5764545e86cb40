"""Messages that are started, and that nobody waits for meanwhile."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import commops
from commops import Comm, PeerLostError

from .layouts import FEW, Layout
from .world import World


def test_messages_that_a_pipe_cannot_hold_go_by_themselves_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sender computes meanwhile, and each array is the caller's again when its send has ended."""
    monkeypatch.setenv("COMMOPS_PIPE_BYTES", "4096")

    def program(comm: Comm) -> None:
        arrays = [np.full(n, i) for i, n in enumerate([1, 500, 3, 2000, 0, 700, 10_000, 40, 100_000, 5])]
        if comm.rank == 0:
            works = [comm.isend(array, 1) for array in arrays]
            deadline = time.monotonic() + 30
            while works:
                done = [work for work in works if work.done()]
                assert done or time.monotonic() < deadline
                works = [work for work in works if not work.done()]
            assert comm.recv(source=1) == 7
        else:
            outs = [np.empty_like(array) for array in arrays]
            receiving = [comm.irecv(out, 0) for out in outs[:5]]
            assert all(work.wait() is out for work, out in zip(receiving, outs, strict=False))
            for out in outs[5:]:
                comm.recv(out, 0)
            for array, out in zip(arrays, outs, strict=True):
                assert np.array_equal(array, out)
            comm.send(np.array(7), 0)

    commops.launch(program, 2)


@pytest.mark.parametrize("layout", FEW, ids=str)
def test_a_receive_that_nobody_follows_writes_when_its_message_comes(world: World) -> None:
    def program(comm: Comm) -> None:
        out = np.zeros(10)
        if comm.rank == 0:
            comm.irecv(out, 1, 5)
            gc.collect()
            comm.send(np.array(0), 1)
            comm.recv(source=1, tag=6)
            assert out.tolist() == [3.0] * 10
        elif comm.rank == 1:
            comm.recv(source=0)
            comm.send(np.full(10, 3.0), 0, 5)
            comm.send(np.array(0), 0, 6)

    world.run(program)


def test_a_receive_ends_though_sends_to_others_follow_each_other(fresh: Callable[..., World]) -> None:
    """Each send ends at once, so none of them waits, and nobody waits for the receive either."""

    def program(comm: Comm) -> int:
        x = np.arange(10.0)
        if comm.rank == 0:
            stop = comm.irecv(np.empty(1), 1)
            sent = 0
            while not stop.done():
                comm.isend(x, 2, 0).wait()
                sent += 1
            comm.send(np.zeros(0), 2, 1)
            return sent
        if comm.rank == 1:
            comm.recv(source=2)  # when messages are on their way
            comm.send(np.zeros(1), 0)
            return 0
        got = 0
        while True:
            _, status = comm.recv(source=0, status=True)
            if status.tag == 1:
                return got
            got += 1
            if got == 1000:
                comm.send(np.zeros(1), 1)

    for layout in (Layout("aaa", "shm"), Layout("aaa", "tcp")):
        sent, _, got = fresh(layout).run(program)
        assert sent == got


def test_a_thread_that_looks_leaves_waiting_ones_their_messages(fresh: Callable[..., World]) -> None:
    """One thread waits for receives that the progress thread drives, another probes all the time."""

    def program(comm: Comm) -> None:
        other = 1 - comm.rank
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                comm.iprobe(other, 7)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for number in range(2000):
                receiving = comm.irecv(np.empty(3), other)
                sending = comm.isend(np.full(3, float(number)), other)
                assert receiving.wait()[0] == number
                sending.wait()
        finally:
            ended.set()
            looking.join()
        comm.barrier()

    for layout in (Layout("aa", "shm"), Layout("aa", "tcp")):
        fresh(layout).run(program)


def test_sends_to_one_who_has_closed_fail_and_harm_nothing(fresh: Callable[..., World]) -> None:
    def program(comm: Comm) -> None:
        child = comm.dup()
        child.barrier()
        if comm.rank == 1:
            child.close()
            comm.send(np.arange(3), 0)
            for _ in range(200):
                comm.send(np.arange(3), 0)  # so that something moves while the others fail
        else:
            comm.recv(source=1)
            for send in (lambda: child.isend(np.arange(4), 1).wait(), lambda: child.send(np.arange(4), 1)):
                with contextlib.suppress(PeerLostError):
                    while True:  # until this rank has heard of it
                        send()
                for _ in range(100):
                    with pytest.raises(PeerLostError, match="closed the communicator"):
                        send()
                    comm.recv(source=1)
        comm.barrier()

    for layout in (Layout("aa", "shm"), Layout("aa", "tcp")):
        fresh(layout).run(program)


def test_threads_that_send_at_once_what_a_pipe_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread's messages arrive whole and in its order, and each send ends."""
    monkeypatch.setenv("COMMOPS_PIPE_BYTES", "4096")
    threads, each, rows = 3, 200, 5000  # 40 kB: sent without the interpreter's lock, and never at once

    def program(comm: Comm) -> None:
        def send(tag: int) -> None:
            for number in range(each):
                comm.isend(np.full(rows, number), 1, tag).wait()

        def receive(tag: int) -> None:
            for number in range(each):
                assert np.array_equal(comm.recv(source=0, tag=tag), np.full(rows, number))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(receive if comm.rank else send, range(threads)))
        comm.barrier()

    commops.launch(program, 2)
