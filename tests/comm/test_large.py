"""More than 2**31 elements in one call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from commops import Comm

from .layouts import Layout
from .world import World

N = 2**31 + 12345


def available() -> int:
    """Return the bytes of memory that can be had."""
    with open("/proc/meminfo") as file:
        rows = dict(line.split(":") for line in file)
    return 1024 * int(rows["MemAvailable"].split()[0])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", ["broadcast", "allreduce", "send", "allgather"])
def test_more_elements_than_31_bits_count(fresh: Callable[..., World], call: str) -> None:
    needed = 6 * 2**30 + 2**30
    if available() < needed:
        pytest.skip(f"needs {needed >> 30} GiB of memory, and {available() >> 30} are available")

    def program(comm: Comm, n: int, call: str) -> None:
        places = np.array(
            [0, 1, 2**31 - 1, 2**31, 2**31 + 1, n - 1, *np.linspace(0, n - 1, 1000).astype(np.int64)]
        )
        x = np.zeros(
            n if call != "allgather" else n - n // 2 * comm.rank - (n + 1) // 2 * (1 - comm.rank), np.uint8
        )
        if call == "broadcast":
            if comm.rank == 0:
                x[places] = places % 251
            got = comm.broadcast(x)
        elif call == "allreduce":
            x[places] = (places % 251) // (1 + comm.rank)
            got = comm.allreduce(x, "max", out=x)
        elif call == "send":
            if comm.rank == 0:
                x[places] = places % 251
                comm.send(x, 1)
                return
            got = comm.recv(x)
        else:
            start = 0 if comm.rank == 0 else n - len(x)
            mine = places[(places >= start) & (places < start + len(x))]
            x[mine - start] = mine % 251
            counts = [n - (n + 1) // 2, (n + 1) // 2]
            got = comm.allgather(x, counts=counts)
        assert got.size == n
        assert np.array_equal(got[places], places % 251)
        assert not got[[2, 2**31 - 5, n - 3]].any()

    fresh(Layout("aa", "shm"), timeout=300).run(program, N, call)
