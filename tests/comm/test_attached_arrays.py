"""Ordinary arrays that are copied once, from one process's own memory to another's."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

import commops
from commops import Comm

from .layouts import Layout
from .world import Died, Raised, World

Fresh = Callable[..., World]

ANY_SIZE = (("COMMOPS_ATTACH_BYTES", "1"),)
THREE = Layout("aaa", "shm", ANY_SIZE, "attached")
SEVERAL = [
    Layout("aa", "shm", ANY_SIZE, "attached"),
    THREE,
]


def _reads_another() -> bool:
    """Tell whether one child of this process may read the memory of another."""
    word = ctypes.create_string_buffer(b"something", 16)
    owner = os.fork()
    if not owner:
        word.value = b"else"
        signal.pause()
    reader = os.fork()
    if not reader:

        class Piece(ctypes.Structure):
            _fields_ = (("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t))

        libc = ctypes.CDLL(None, use_errno=True)
        piece = Piece(ctypes.addressof(word), 16)
        one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
        got = libc.process_vm_readv(owner, ctypes.byref(piece), one, ctypes.byref(piece), one, none)
        os._exit(got != 16)
    _, status = os.waitpid(reader, 0)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    return status == 0


pytestmark = pytest.mark.skipif(
    not _reads_another(), reason="the system does not let one process read another's memory"
)


@pytest.mark.parametrize("layout", SEVERAL, ids=str)
@pytest.mark.parametrize("n", [1, 1000, 300_001])
def test_what_arrives_is_what_was_there(fresh: Fresh, layout: Layout, n: int) -> None:
    """Each array is overwritten as soon as its call has returned: a reader that came too late would show."""

    def program(comm: Comm, n: int) -> None:
        size, rank = comm.size, comm.rank
        x = np.empty((size, n))
        for i in range(20):
            x[...] = 1000 * i + rank + np.arange(size)[:, None] / 64
            blocks = comm.alltoall(x)
            assert (blocks == 1000 * i + np.arange(size)[:, None] + rank / 64).all()
            x[...] = np.arange(size)[:, None] + i
            part = comm.scatter(x if rank == i % size else None, i % size)
            x[...] = -1
            assert (part == rank + i).all()
            counts = [size - 1, 1, *[0] * (size - 2)]
            x[...] = i
            rows = comm.scatter(x if rank == 0 else None, counts=counts)
            x[...] = -1
            assert rows.shape == (counts[rank], n)
            assert (rows == i).all()

    fresh(layout).run(program, n)


def test_memory_that_cannot_be_read_is_an_error_on_every_rank(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        pages = mmap.mmap(-1, 3 << 20)
        x = np.frombuffer(pages, np.float64).reshape(3, -1)
        x[...] = comm.rank
        comm.alltoall(x)
        comm.barrier()
        if comm.rank == 1:  # the part for rank 0 is no longer to be read by anybody
            part = ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(x[0].nbytes)
            assert ctypes.CDLL(None).mprotect(*part, 0) == 0
        comm.alltoall(x)

    ends = fresh(THREE).outcomes(program)
    for end in ends:
        assert isinstance(end, Raised)
        assert isinstance(end.error, commops.CommError)
    assert "cannot be read: Bad address" in str(ends[0].error)


@pytest.mark.parametrize("call", ["alltoall", "scatter"])
def test_an_owner_that_gives_up_shows_nothing_more(fresh: Fresh, call: str) -> None:
    def program(comm: Comm, call: str) -> None:
        x = np.ones((3, 100_000))
        comm.barrier()
        if comm.rank == 1:
            time.sleep(1.0)
        else:
            comm.timeout = 0.2
        try:
            getattr(comm, call)(x if comm.rank == 0 or call != "scatter" else None)
        finally:
            x[...] = -1

    ends = fresh(THREE).outcomes(program, call)
    for end in ends[: 2 if call == "scatter" else 3]:  # rank 2 may have its part
        assert isinstance(end, Raised)
        assert isinstance(end.error, commops.CommError)
    assert isinstance(ends[0].error, commops.CommTimeoutError)


@pytest.mark.parametrize("layout", SEVERAL, ids=str)
@pytest.mark.parametrize("after", [0.0, 0.003, 0.01, 0.03])
def test_an_owner_that_dies_is_named(fresh: Fresh, layout: Layout, after: float) -> None:
    def program(comm: Comm) -> None:
        x = np.ones((comm.size, 500_000))
        comm.barrier()
        for _ in range(1000):
            assert (comm.scatter(x if comm.rank == 1 else None, 1) == 1).all()
            assert (comm.alltoall(x) == 1).all()

    world, dead = fresh(layout), 1
    world.start(program)
    time.sleep(0.3 + after)
    world.signal(dead, signal.SIGKILL)
    ends = world.collect()
    assert isinstance(ends[dead], Died)
    for rank, end in enumerate(ends):
        if rank != dead:
            assert isinstance(end, Raised), f"rank {rank}: {end}"
            assert isinstance(end.error, commops.PeerLostError), f"rank {rank}: {end.trace}"
            assert end.error.ranks == (dead,)
