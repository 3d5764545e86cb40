"""What one must not do with a communicator is an error that says so, and harms nobody."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import commops
from comm.layouts import Layout
from comm.world import World
from commops import Comm

Fresh = Callable[..., World]
LAYOUTS = [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_two_threads_in_collectives_of_one_communicator(fresh: Fresh, layout: Layout) -> None:
    def refused(comm: Comm) -> bool:
        if comm.rank:
            comm.recv(source=0, tag=1)
            comm.barrier()
            return True
        started = threading.Event()
        ended = threading.Event()

        def wait() -> None:
            started.set()
            comm.barrier()
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        started.wait()
        time.sleep(0.1)  # nobody else comes to the barrier before this rank says so
        for call in (comm.barrier, lambda: comm.allreduce(np.ones(9)), lambda: comm.iallgather(np.ones(2))):
            with pytest.raises(ValueError, match=r"another thread is in a collective .*comm\.dup\(\)"):
                call()
        assert not ended.is_set()
        for other in range(1, comm.size):
            comm.send(np.ones(1), other, 1)  # messages may be sent meanwhile
        thread.join(20)
        return ended.is_set()

    world = fresh(layout)
    assert world.run(refused) == [True] * layout.size

    def fine(comm: Comm) -> bool:
        return bool((comm.allreduce(np.ones(4)) == comm.size).all())

    assert world.run(fine) == [True] * layout.size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_threads_with_communicators_of_their_own(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> list[float]:
        groups = [comm.dup() for _ in range(4)]
        totals = [0.0] * 4

        def work(which: int) -> None:
            for n in range(200):
                totals[which] += groups[which].allreduce(np.full(1 + n * which, float(which)))[0]

        threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return totals

    n = layout.size
    assert fresh(layout).run(program) == [[200.0 * n * which for which in range(4)]] * n


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_fork_has_no_communicator_and_its_parent_keeps_its_own(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> tuple[int, int]:
        shared = comm.zeros(1000)
        statuses = 0
        for _ in range(3):
            work = comm.iallreduce(np.ones(100_000))
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for call in (comm.barrier, comm.shrink, comm.revoke, lambda: comm.send(np.ones(1), 0)):
                        with pytest.raises(commops.CommError, match="made by another process"):
                            call()
                    comm.close()
                    del shared
                    code = 0
                finally:
                    os._exit(code)
            statuses += os.waitpid(pid, 0)[1]
            assert (work.wait() == comm.size).all()
        shared[:] = 1
        return statuses, int(comm.allreduce(shared)[-1])

    assert fresh(layout).run(program) == [(0, layout.size)] * layout.size
