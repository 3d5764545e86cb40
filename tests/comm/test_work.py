"""Calls in progress: what a Work says, and that it goes on by itself."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

import commops
from commops import Comm, Work

from .layouts import FEW
from .world import World


def until(condition: Any) -> None:
    """Compute, in pure Python, until something is so."""
    deadline = time.monotonic() + 30
    number = 0
    while not condition():
        number += 1
        assert time.monotonic() < deadline


def test_wait_with_a_timeout_leaves_the_call_going(world: World) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            work = comm.iallreduce(np.arange(10.0))
            assert not work.done()
            for ask in (work.wait, work.result, work.exception):
                before = time.monotonic()
                with pytest.raises(commops.CommTimeoutError) as caught:
                    ask(0.02)
                assert time.monotonic() - before >= 0.02
                assert isinstance(caught.value, TimeoutError)
                assert not work.done()
            assert "in progress" in repr(work)
            comm.send(np.array(0), 1)
        else:
            if comm.rank == 1:
                comm.recv(source=0)
            work = comm.iallreduce(np.arange(10.0))
        assert work.result().tolist() == (comm.size * np.arange(10.0)).tolist()
        assert work.result() is work.wait() is work.wait(0)
        assert work.exception() is None
        assert work.done()
        assert "done" in repr(work)

    world.run(program)


@pytest.mark.parametrize("n", [3, 1000, 300_000])
def test_calls_progress_while_their_rank_computes(world: World, n: int) -> None:
    def program(comm: Comm, n: int) -> None:
        works = [comm.iallreduce(np.ones(n)), comm.iallgather(np.full(n, comm.rank)), comm.ibarrier()]
        works += [comm.ireduce_object([comm.rank], "sum", 1)]
        until(lambda: all(work.done() for work in works))
        assert (works[0].result() == comm.size).all()
        assert works[3].result() == ([0, 1, 2] if comm.rank == 1 else None)

    world.run(program, n)


@pytest.mark.parametrize("n", [3, 1_000_000])
def test_calls_progress_while_their_rank_sleeps(world: World, n: int) -> None:
    """The others wait for all of a rank's part, and it is back only after they have told it so."""

    def program(comm: Comm, n: int) -> None:
        if comm.rank == 0:
            works = [comm.iallreduce(np.ones(n)), comm.isend(np.ones(n), 1)]
            told = threading.Event()
            thread = threading.Thread(target=lambda: (comm.recv(source=1, tag=9), told.set()))
            thread.start()
            assert told.wait(30)
            thread.join()
            assert (works[0].result() == comm.size).all()
            works[1].wait()
        else:
            assert (comm.allreduce(np.ones(n)) == comm.size).all()
            if comm.rank == 1:
                comm.recv(source=0, tag=0)
                comm.send(np.array(0), 0, 9)

    world.run(program, n)


def test_await_lets_other_tasks_run(world: World) -> None:
    """Rank 0 joins the collectives when another task of every other rank has said that it runs meanwhile."""

    def program(comm: Comm) -> None:
        async def tick(ended: asyncio.Event) -> None:
            ticks = 0
            while not ended.is_set():
                ticks += 1
                if ticks == 3 and comm.rank:
                    await comm.isend(np.array(ticks), 0, 5)
                await asyncio.sleep(0.001)

        async def main() -> None:
            ended = asyncio.Event()
            task = asyncio.create_task(tick(ended))
            if comm.rank == 0:
                for source in range(1, comm.size):
                    await comm.irecv(source=source, tag=5)
            totals = await asyncio.gather(*(wrapped(comm.iallreduce(np.array(i))) for i in range(10)))
            assert totals == [i * comm.size for i in range(10)]
            right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
            receiving = comm.irecv(source=left)
            await comm.isend(np.arange(100_000), right)
            assert np.array_equal(await receiving, np.arange(100_000))
            done = comm.ibarrier()
            await done
            await done  # a second time gives the same
            ended.set()
            await task

        asyncio.run(main())

    async def wrapped(work: Work[Any]) -> Any:
        return await work

    world.run(program)


def test_await_raises_what_the_call_raises(world: World) -> None:
    def program(comm: Comm) -> None:
        async def main() -> None:
            if comm.rank == 0:
                comm.send(np.zeros(3), 1)
            elif comm.rank == 1:
                with pytest.raises(ValueError, match="out must have shape"):
                    await comm.irecv(np.zeros(4), 0)
                await comm.irecv(np.zeros(3), 0)

        asyncio.run(main())

    world.run(program)


def test_a_cancelled_task_leaves_the_call_going(world: World) -> None:
    def program(comm: Comm) -> None:
        async def main() -> None:
            work = comm.iallreduce(np.array(1))

            async def wait() -> None:
                await work

            if comm.rank == 0:
                task = asyncio.create_task(wait())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                comm.send(np.array(0), 1)
            assert await work == comm.size

        if comm.rank == 1:
            comm.recv(source=0)
        asyncio.run(main())

    world.run(program)


def test_a_dropped_work_goes_on_and_its_arrays_live_until_its_end(world: World) -> None:
    def program(comm: Comm) -> None:
        out = np.zeros(200_000)
        x = np.ones(200_000)
        watch = weakref.ref(x)
        if comm.rank == 0:
            comm.iallreduce(x, out=out)
            del x
            gc.collect()
            assert watch() is not None  # the others have not come
            comm.send(np.array(0), 1)
            comm.send(np.array(0), 2)
        else:
            comm.recv(source=0)
            comm.iallreduce(x, out=out)
            del x
        comm.barrier()
        assert (out == comm.size).all()
        gc.collect()
        until(lambda: watch() is None)

    world.run(program)


def test_collectives_run_in_the_order_of_their_calls(world: World) -> None:
    def program(comm: Comm, seed: int) -> None:
        rng = np.random.default_rng([seed, comm.rank])
        works = []
        for i in range(150):
            if rng.random() < 0.5:
                works.append((i, comm.iallreduce(np.array(i))))
            else:
                assert comm.allreduce(np.array(i)) == i * comm.size
        for i, work in works:
            assert work.wait() == i * comm.size

    for seed in range(3):
        world.run(program, seed)


def test_a_blocking_call_waits_for_those_before_it(world: World) -> None:
    def program(comm: Comm) -> None:
        x = np.zeros(100_000)
        for i in range(1, 20):
            work = comm.iallreduce(np.full(100_000, i), out=x.view(np.int64))
            comm.barrier()
            assert work.done()
            assert (x.view(np.int64) == i * comm.size).all()

    world.run(program)


@pytest.mark.parametrize("layout", FEW, ids=str)
def test_communicators_are_used_by_threads_at_the_same_time(world: World) -> None:
    def program(comm: Comm, count: int) -> None:
        comms = [comm.dup() for _ in range(count)]
        failures: list[BaseException] = []

        def work(number: int, mine: Comm) -> None:
            try:
                for i in range(40):
                    n = [1, 1000, 50_000][i % 3]
                    assert (mine.allreduce(np.full(n, number + i)) == (number + i) * mine.size).all()
                    assert mine.iallgather(np.array(mine.rank)).wait().tolist() == list(range(mine.size))
                    right, left = (mine.rank + 1) % mine.size, (mine.rank - 1) % mine.size
                    assert mine.sendrecv(np.array(number), right, left) == number
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(comms)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in comms:
            each.close()
        if failures:
            raise failures[0]

    world.run(program, 4)


def test_threads_wait_for_calls_that_others_made(world: World) -> None:
    def program(comm: Comm) -> None:
        works = [comm.iallreduce(np.full(1000, i)) for i in range(20)]
        results: dict[int, Any] = {}

        def wait(i: int) -> None:
            results[i] = works[i].wait()

        threads = [threading.Thread(target=wait, args=(i,)) for i in (*range(20), *range(20))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all((results[i] == i * comm.size).all() for i in range(20))

    world.run(program)


def test_a_thread_sends_to_another_of_the_same_rank(world: World) -> None:
    def program(comm: Comm) -> None:
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(comm.recv(source=comm.rank, tag=5)))
        thread.start()
        comm.send(np.arange(500_000), comm.rank, 5)
        thread.join()
        assert np.array_equal(got[0], np.arange(500_000))
        comm.barrier()

    world.run(program)


def test_the_timeout_of_a_call_is_the_communicators_when_it_is_made(world: World) -> None:
    def program(comm: Comm) -> None:
        other = comm.dup()
        if comm.rank == 0:
            before, other.timeout = other.timeout, 0.05
            with pytest.raises(commops.CommTimeoutError):
                other.recv(source=1)
            other.timeout = before
            comm.send(np.array(0), 1)
        elif comm.rank == 1:
            comm.recv(source=0)
            other.send(np.array(7), 0)
        if comm.rank == 0:
            assert other.recv(source=1) == 7  # nothing of the first has taken it
        other.close()

    world.run(program)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError), ([1.0], TypeError)],
)
def test_a_timeout_of_wait_is_a_number_of_seconds(world: World, timeout: Any, error: type[Exception]) -> None:
    def program(comm: Comm, timeout: Any, error: type[Exception]) -> None:
        work = comm.iallreduce(np.array(1))
        for call in (work.wait, work.result, work.exception):
            with pytest.raises(error, match="timeout must be a number of seconds"):
                call(timeout)
        for fine in (30, 30.0, np.float32(30), np.int64(30), float("inf"), None):
            assert work.wait(fine) == comm.size
            assert work.exception(fine) is None

    world.run(program, timeout, error)
