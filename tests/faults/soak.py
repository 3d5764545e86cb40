"""Hours of everything, for `make soak`; tests have some seconds: `commops run -n 3 soak.py SECONDS CALLS`.

First so many small allreduces; then, for so many seconds, random calls on random communicators, which come
and go, with revocations and shrinks. Results are checked; memory and descriptors must not grow.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import time

import numpy as np

import commops
from commops import Comm

WARM = 0.1  # share of the time after which nothing may grow any more
MOST_GROWTH = 24 << 20  # bytes: what allocators keep of the sizes that come up late


def resident() -> int:
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("Rss:"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def small_calls(comm: Comm, calls: int) -> None:
    x, out = np.ones(2), np.ones(2)
    for _ in range(calls):
        comm.allreduce(x, out=out)
    assert (out == comm.size).all()


def one_call(comm: Comm, chance: random.Random) -> None:
    """Make some call that all ranks draw alike, and look at what comes of it."""
    n = int(2 ** chance.uniform(0, 17))
    root = chance.randrange(comm.size)
    own = np.arange(n, dtype=np.float64) + comm.rank
    total = comm.size * np.arange(n) + sum(range(comm.size))
    match chance.randrange(11):
        case 0:
            comm.barrier()
        case 1:
            assert (comm.allreduce(own) == total).all()
        case 2:
            assert (comm.iallreduce(own, "max").wait() == np.arange(n) + comm.size - 1).all()
        case 3:
            got = comm.broadcast(own if comm.rank == root else None, root)
            assert (got == np.arange(n) + root).all()
        case 4:
            rows = comm.allgather(own[None, :])
            assert (rows[:, 0] == np.arange(comm.size)).all()
        case 5:
            block = comm.scatter(np.repeat(np.arange(comm.size), n) if comm.rank == root else None, root)
            assert (block == comm.rank).all()
        case 6:
            assert (comm.alltoall(np.repeat(np.arange(comm.size), n)) == comm.rank).all()
        case 7:
            reduced = comm.reduce(own, root=root)
            assert reduced is None or (reduced == total).all()
        case 8:
            right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
            assert comm.sendrecv(own, right, left)[0] == left
        case 9:
            assert comm.allgather_object({"rank": comm.rank, "x": own[:50]})[root]["rank"] == root
        case 10:
            shared = comm.zeros(n)
            shared += own
            assert (comm.allreduce(shared) == total).all()


def lifetime(comm: Comm, chance: random.Random) -> None:
    """Make a communicator, use it, and end it in one way or another."""
    part = comm.split(comm.rank % chance.choice((1, 2)), chance.randrange(3))
    assert part is not None
    own, after = random.Random(chance.random()), random.Random(chance.random())
    revoked = chance.random() < 0.1
    # Who is through its calls may revoke it while others are still in theirs.
    with contextlib.suppress(commops.RevokedError) if revoked else contextlib.nullcontext():
        for _ in range(own.randrange(5)):
            one_call(part, own)
    if revoked:
        part.revoke()
        with part.shrink() as again:
            assert again.agree(True)
            one_call(again, after)
    part.close()


def main(seconds: float, calls: int) -> None:
    with commops.init(timeout=120) as comm:
        small_calls(comm, max(calls // 10, 1))
        before = resident(), descriptors()
        small_calls(comm, calls)
        grown = resident() - before[0], descriptors() - before[1]
        assert grown[0] < 2 << 20, f"rank {comm.rank} grew by {grown[0]} bytes in {calls} calls"
        assert grown[1] <= comm.size  # connections are made when they are first needed
        chance = random.Random(7)
        start, said, made, warm = time.monotonic(), 0.0, 0, False
        while True:
            lasted = time.monotonic() - start
            if comm.broadcast_object(lasted > seconds if comm.rank == 0 else None):
                break
            for _ in range(20):
                one_call(comm, chance)
            lifetime(comm, chance)
            made += 1
            if not warm and comm.broadcast_object(lasted > WARM * seconds if comm.rank == 0 else None):
                gc.collect()
                warm, before = True, (resident(), descriptors())
            if comm.rank == 0 and lasted - said > 60:
                said = lasted
                print(f"{lasted:8.0f} s  {made} rounds  {resident() >> 20} MiB  {descriptors()} descriptors")
        gc.collect()
        grown = resident() - before[0], descriptors() - before[1]
        assert grown[0] < MOST_GROWTH, f"rank {comm.rank} grew by {grown[0]} bytes in {made} rounds"
        assert grown[1] <= comm.size, f"rank {comm.rank} has {grown[1]} more descriptors"
        if comm.rank == 0:
            print(f"{made} rounds, grown by {grown[0]} bytes and {grown[1]} descriptors")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
