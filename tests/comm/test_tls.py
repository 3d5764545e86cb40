"""Communicators whose sockets speak TLS: the same results, and ends that are noticed as fast."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import commops
from commops import Comm

from .layouts import SMALL, Layout
from .world import Raised, World

pytest.importorskip("cryptography")

from commops.rendezvous.certificates import new_credentials


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "job.pem"
    path.touch(mode=0o600)
    path.write_bytes(new_credentials())
    return str(path)


def with_tls(hosts: str, transport: str, pem: str, settings: tuple[tuple[str, str], ...] = ()) -> Layout:
    return Layout(hosts, transport, (*settings, ("COMMOPS_TLS_FILE", pem)))


def all_calls(comm: Comm, n: int) -> None:
    r, p = comm.rank, comm.size
    x = np.arange(n, dtype=np.int64) * (r + 1)
    total = np.arange(n, dtype=np.int64) * (p * (p + 1) // 2)
    np.testing.assert_array_equal(comm.allreduce(x), total)
    root = comm.reduce(x, root=p - 1)
    if r == p - 1:
        np.testing.assert_array_equal(root, total)
    np.testing.assert_array_equal(comm.broadcast(x.copy() if r == 0 else None), np.arange(n))
    np.testing.assert_array_equal(comm.allgather(x)[n * (p - 1) :], np.arange(n) * p)
    mine = comm.scatter(np.arange(p * n) if r == 0 else None)
    np.testing.assert_array_equal(mine, np.arange(r * n, (r + 1) * n))
    parts = comm.alltoall(np.repeat(np.arange(p) + p * r, n))
    np.testing.assert_array_equal(parts, np.repeat(np.arange(p) * p + r, n))
    np.testing.assert_array_equal(comm.scan(x), np.arange(n) * ((r + 1) * (r + 2) // 2))
    got = comm.sendrecv(x, (r + 1) % p, (r - 1) % p)
    np.testing.assert_array_equal(got, np.arange(n) * ((r - 1) % p + 1))
    works = [comm.iallreduce(x + i) for i in range(4)]
    for i, work in enumerate(works):
        np.testing.assert_array_equal(work.wait(), total + i * p)
    assert comm.allgather_object({"rank": r, "n": n})[0] == {"rank": 0, "n": n}
    comm.barrier()


@pytest.mark.parametrize(("hosts", "transport"), [("aa", "tcp"), ("aabb", "auto"), ("abaab", "auto")])
@pytest.mark.parametrize("small", [False, True], ids=["usual", "small pieces"])
def test_every_call_gives_what_it_should(
    hosts: str, transport: str, small: bool, fresh: Callable[..., World], pem: str
) -> None:
    world = fresh(with_tls(hosts, transport, pem, SMALL if small else ()))
    for n in (0, 1, 7, 1000, 20_000) if small else (0, 1, 7, 2048, 16_384, 300_000, 1_000_000):
        world.run(all_calls, n)


def test_messages_of_all_sizes_arrive_in_order(fresh: Callable[..., World], pem: str) -> None:
    def program(comm: Comm) -> None:
        sizes = [int(size) for size in np.random.default_rng(7).integers(0, 1 << 19, 60)] + [1 << 25]
        for size in sizes:
            if comm.rank == 0:
                comm.send(np.full(size, size % 251, np.uint8), 1)
            else:
                got = comm.recv()
                assert got.shape == (size,)
                assert (got == size % 251).all()
        comm.barrier()

    fresh(with_tls("ab", "auto", pem)).run(program)


def test_a_message_that_nobody_waits_for_yet_is_taken_in(fresh: Callable[..., World], pem: str) -> None:
    """The progress thread is woken for bytes that TLS has read ahead, of which no socket tells."""

    def program(comm: Comm) -> int:
        for i in range(50):
            if comm.rank == 0:
                for size in (1, 3000, 200_000):
                    comm.send(np.full(size, i), 1)
            else:
                work = comm.irecv(source=0)
                while not work.done():
                    time.sleep(0.0005)
                assert (work.wait() == i).all()
                for _ in range(2):
                    assert (comm.recv(source=0) == i).all()
        return comm.size

    assert fresh(with_tls("aa", "tcp", pem)).run(program) == [2, 2]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("hosts", "transport"), [("aaa", "tcp"), ("aab", "auto")])
def test_a_rank_that_dies_is_named_by_all_others(
    number: signal.Signals, hosts: str, transport: str, fresh: Callable[..., World], pem: str
) -> None:
    def program(comm: Comm, number: int) -> None:
        for _ in range(3):
            comm.allreduce(np.ones(1000))
        if comm.rank == 2:
            os.kill(os.getpid(), number)
        comm.allreduce(np.ones(1_000_000))

    world = fresh(with_tls(hosts, transport, pem))
    start = time.monotonic()
    ends: list[Any] = world.outcomes(program, int(number), ranks=range(3))
    assert time.monotonic() - start < 10
    for end in ends[:2]:
        assert isinstance(end, Raised)
        assert isinstance(end.error, commops.PeerLostError), end.error
        assert end.error.ranks == (2,)


def test_no_rank_is_missed_at_a_clean_end(fresh: Callable[..., World], pem: str) -> None:
    """What a rank has sent last arrives, though it closes at once and TLS may hold some of it back."""

    def program(comm: Comm) -> int:
        if comm.rank == 0:
            works = [comm.isend(np.full(1 << 20, i), 1) for i in range(8)]
            for work in works:
                work.wait()
            comm.close()
            return 0
        time.sleep(0.3)
        return sum(int(comm.recv(source=0)[-1]) for _ in range(8))

    assert fresh(with_tls("aa", "tcp", pem)).run(program) == [0, 28]
