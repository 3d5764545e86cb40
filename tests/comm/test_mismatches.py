"""Ranks that make different calls: each hears of it, and of what each has called."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import commops
from commops import Comm

from .layouts import Layout
from .world import World, errors

LAYOUTS = [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab"), Layout("aabb"), Layout("abaab")]
Fresh = Callable[..., World]


def one_calls(comm: Comm, odd: int, usual: Any, other: Any, before: int) -> None:
    for _ in range(before):
        comm.allreduce(np.zeros(5))
    (other if comm.rank == odd else usual)(comm)
    comm.barrier()  # a rank that only gives something away may hear of it in its next call


CALLS: dict[str, tuple[Any, str]] = {
    "sum": (lambda c: c.allreduce(np.zeros(6)), "allreduce(6 × float64, op=sum)"),
    "max": (lambda c: c.allreduce(np.zeros(6), "max"), "allreduce(6 × float64, op=max)"),
    "dtype": (lambda c: c.allreduce(np.zeros(6, np.int32)), "allreduce(6 × int32, op=sum)"),
    "count": (lambda c: c.allreduce(np.zeros(7)), "allreduce(7 × float64, op=sum)"),
    "large": (lambda c: c.allreduce(np.zeros(70_000)), "allreduce(70000 × float64, op=sum)"),
    "huge": (lambda c: c.allreduce(np.zeros(700_000)), "allreduce(700000 × float64, op=sum)"),
    "barrier": (lambda c: c.barrier(), "barrier()"),
    "i": (lambda c: c.iallgather(np.zeros(6)).wait(), "allgather(6 × float64)"),
    "gather": (lambda c: c.gather(np.zeros(6), 1), "gather(6 × float64, root=1)"),
    "root": (lambda c: c.gather(np.zeros(6), 2), "gather(6 × float64, root=2)"),
    "object": (lambda c: c.allgather_object("text"), "allgather of objects("),
    "sent": (lambda c: c.broadcast_object("text"), "broadcast of objects("),
    "received": (lambda c: c.broadcast(None), "broadcast(root=0)"),
    "function": (lambda c: c.allreduce(np.zeros(6), np.add), "allreduce by a function(6 × float64)"),
    "function scan": (lambda c: c.scan(np.zeros(6), np.add), "scan by a function(6 × float64)"),
    "objects": (lambda c: c.allreduce_object(1), "allreduce of objects("),
    "split": (lambda c: c.split(0), "split(32 × uint8)"),
    "dup": (lambda c: c.dup(), "dup(32 × uint8)"),
    "empty": (lambda c: c.empty(3), "empty(1 × bool)"),
    "flags": (lambda c: c.allgather(np.array([True])), "allgather(1 × bool)"),
    "rows": (
        lambda c: c.allgather(np.zeros((1, 0)), counts=[1] * c.size),
        "allgather(0 × float64 of shape (1, 0))",
    ),
    "other rows": (
        lambda c: c.allgather(np.zeros((2, 0)), counts=[2] * c.size),
        "allgather(0 × float64 of shape (2, 0))",
    ),
    "no elements": (
        lambda c: c.alltoall(np.zeros((c.size, 0)), send_counts=[1] * c.size),
        "alltoall(",
    ),
    "no integers": (
        lambda c: c.alltoall(np.zeros((c.size, 0), np.int64), send_counts=[1] * c.size),
        "alltoall(",
    ),
    "arrays": (lambda c: c.allgather(np.zeros(6)), "allgather(6 × float64)"),
    "broadcast": (lambda c: c.broadcast(np.zeros(6), 0), "broadcast(6 × float64, root=0)"),
    "long": (lambda c: c.broadcast(np.zeros(700_000), 0), "broadcast(700000 × float64, root=0)"),
    "elsewhere": (lambda c: c.broadcast(np.zeros(700_000), 1), "broadcast(700000 × float64, root=1)"),
    "reduce": (lambda c: c.reduce(np.zeros(70_000), root=1), "reduce(70000 × float64, op=sum, root=1)"),
    "scan": (lambda c: c.scan(np.zeros(6)), "scan(6 × float64, op=sum)"),
    "scatter": (lambda c: c.scatter(np.zeros(c.size), out=np.zeros(1)), "scatter(1 × float64, root=0)"),
    "blocks": (lambda c: c.reduce_scatter(np.zeros(c.size)), "reduce_scatter(1 × float64, op=sum)"),
    "alltoall": (lambda c: c.alltoall(np.zeros(6 * c.size)), "alltoall(6 × float64)"),
    "wide": (lambda c: c.allreduce(np.zeros((2, 3))), "allreduce(6 × float64 of shape (2, 3), op=sum)"),
    "tall": (lambda c: c.allreduce(np.zeros((3, 2))), "allreduce(6 × float64 of shape (3, 2), op=sum)"),
    "scalar": (lambda c: c.reduce(np.zeros(())), "reduce(1 × float64 of shape (), op=sum, root=0)"),
    "one": (lambda c: c.reduce(np.zeros(1)), "reduce(1 × float64, op=sum, root=0)"),
    "long rows": (
        lambda c: c.gather(np.zeros((1, 6)), counts=[1] * c.size),
        "gather({6n} × float64 of shape (1, 6), root=0)",
    ),
    "short rows": (
        lambda c: c.gather(np.zeros((2, 3)), counts=[2] * c.size),
        "gather({6n} × float64 of shape (2, 3), root=0)",
    ),
    "deep": (
        lambda c: c.broadcast(np.zeros((1, 2, 1, 3, 1)), 0),
        "broadcast(6 × float64 of shape (1, 2, 1, 3, …), root=0)",
    ),
    "flat": (lambda c: c.broadcast(np.zeros((6, 1)), 0), "broadcast(6 × float64 of shape (6, 1), root=0)"),
}
PAIRS = [
    ("sum", "max"),
    ("sum", "dtype"),
    ("sum", "count"),
    ("large", "sum"),
    ("huge", "large"),
    ("sum", "barrier"),
    ("barrier", "large"),
    ("i", "sum"),
    ("gather", "root"),
    ("alltoall", "i"),
    ("object", "barrier"),
    ("sent", "received"),
    ("function", "arrays"),
    ("broadcast", "gather"),
    ("gather", "huge"),
    ("long", "elsewhere"),
    ("reduce", "scan"),
    ("scatter", "blocks"),
    ("root", "scatter"),
    ("wide", "tall"),
    ("sum", "wide"),
    ("scalar", "one"),
    ("long rows", "short rows"),
    ("deep", "flat"),
    ("function", "function scan"),
    ("object", "objects"),
    ("split", "dup"),
    ("empty", "flags"),
    ("rows", "other rows"),
    ("no elements", "no integers"),
]


@pytest.mark.parametrize("layout", [*LAYOUTS[:3], Layout("abaab")], ids=str)
@pytest.mark.parametrize(("usual", "other"), PAIRS)
def test_different_calls_are_shown_on_every_rank(
    fresh: Fresh, layout: Layout, usual: str, other: str
) -> None:
    odd = layout.size - 1
    # Long before the deadline: also where all wait, and no message between them shows the difference.
    ends = fresh(layout, timeout=3600).outcomes(one_calls, odd, CALLS[usual][0], CALLS[other][0], 3)
    for text in errors(ends, commops.MismatchError):
        for rank in range(layout.size):
            call = CALLS[other if rank == odd else usual][1].replace("{6n}", str(6 * layout.size))
            assert f"rank {rank}: {call}" in text
    assert isinstance(ends[0].error, ValueError)


def test_a_rank_that_calls_something_else_later_hears_of_it_too(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.3)
            comm.allreduce(np.zeros(3))
        else:
            comm.allreduce(np.zeros(4))

    for layout in LAYOUTS:
        for text in errors(fresh(layout).outcomes(program), commops.MismatchError):
            assert "rank 0: allreduce(4 × float64, op=sum); rank 1: allreduce(3 × float64, op=sum)" in text


def test_a_root_that_is_done_hears_of_it_in_its_next_call(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            comm.broadcast(np.zeros(3))
            time.sleep(1)  # the others have given up by now, or give up when it calls
            comm.barrier()
        else:
            comm.gather(np.zeros(3), root=1)
            comm.barrier()

    for layout in LAYOUTS:
        for text in errors(fresh(layout, timeout=3600).outcomes(program), commops.MismatchError):
            assert "rank 0: broadcast(3 × float64, root=0); rank 1: gather(3 × float64, root=1)" in text


@pytest.mark.parametrize("late", [None, 1, 2])
@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=str)
def test_a_root_hears_in_its_next_call_whom_its_array_does_not_fit(
    fresh: Fresh, layout: Layout, late: int | None
) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == late:
            time.sleep(0.6)  # the communicator is broken by then
        comm.broadcast(np.zeros(3 if comm.rank == 0 else 7))
        comm.barrier()

    for text in errors(fresh(layout, timeout=3600).outcomes(program), commops.MismatchError):
        sizes = [3] + [7] * (layout.size - 1)
        calls = [f"rank {rank}: broadcast({n} × float64, root=0)" for rank, n in enumerate(sizes)]
        assert text.endswith("; ".join(calls))


ALONE: dict[str, Callable[[Comm], Any]] = {
    "broadcast": lambda c: c.broadcast(np.zeros(3), root=c.rank),
    "long broadcast": lambda c: c.broadcast(np.zeros(3000), root=c.rank),
    "scatter": lambda c: c.scatter(np.zeros(c.size), root=c.rank),
    "gather": lambda c: c.gather(np.zeros(3), root=(c.rank + 1) % c.size),
    "reduce": lambda c: c.reduce(np.zeros(3), root=(c.rank + 1) % c.size),
    "scan": lambda c: (c.scan if c.rank % 2 else c.exscan)(np.zeros(3)),
}


@pytest.mark.parametrize("layout", [Layout("aa", "shm"), *LAYOUTS[:3]], ids=str)
@pytest.mark.parametrize("call", ALONE)
def test_calls_that_wait_for_nobody_differ_and_nothing_follows(
    fresh: Fresh, layout: Layout, call: str
) -> None:
    def program(comm: Comm) -> None:
        ALONE[call](comm)
        comm.close()

    # Who was done before another came cannot know.
    ends = [end for end in fresh(layout, timeout=3600).outcomes(program) if end is not None]
    assert any(isinstance(end.error, commops.MismatchError) for end in ends), ends
    errors(ends, commops.CommError)


@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=str)
def test_a_block_of_another_shape_is_refused_on_every_rank(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        comm.scatter(
            np.zeros((2 * comm.size, 3)), out=np.zeros((3, 2) if comm.rank == comm.size - 1 else (2, 3))
        )
        comm.barrier()

    last = layout.size - 1
    for text in errors(fresh(layout, timeout=3600).outcomes(program), commops.MismatchError):
        assert f"float64 of shape (2, 3) to rank {last}, which expects float64 of shape (3, 2)" in text


@pytest.mark.parametrize("layout", [Layout("aa", "tcp"), Layout("ab")], ids=str)
def test_a_rank_that_is_far_ahead_hears_of_it(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        comm.broadcast(np.zeros(3))
        if comm.rank == 0:
            for _ in range(20):
                comm.broadcast(np.zeros(3))
        else:
            comm.gather(np.zeros(4, np.int32), root=0)
        comm.barrier()

    for text in errors(fresh(layout, timeout=3600).outcomes(program), commops.MismatchError):
        assert "number 2" in text
        # Whoever notices it first names the other, and its own call if it still has it.
        assert "gather(4 × int32, root=0)" in text or "rank 1 made another call" in text


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_who_has_closed_after_another_call_is_no_lost_rank(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        other = comm.dup()
        if comm.rank == 0:
            other.broadcast(np.zeros(3))
            other.close()
            for rank in range(1, comm.size):
                comm.send(np.zeros(1), rank)
        else:
            comm.recv(source=0)
            other.gather(np.zeros(3), root=0)  # waits for nobody
            other.barrier()

    closed, *others = fresh(layout, timeout=3600).outcomes(program)
    assert closed is None
    for text in errors(others, commops.MismatchError):
        assert "number 1" in text or "collective 1" in text


def test_a_root_that_is_done_may_close_after_different_calls(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            comm.broadcast(np.zeros(3))
            comm.close()
        else:
            comm.gather(np.zeros(3), root=1)
            comm.barrier()

    for layout in LAYOUTS:
        ends = fresh(layout, timeout=3600).outcomes(program)
        if ends[0] is None:  # else the others were there before it
            del ends[0]
        errors(ends, commops.CommError)


@pytest.mark.parametrize("layout", [Layout("aaa", "tcp"), Layout("abaab")], ids=str)
def test_who_comes_late_makes_no_other_call(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        n = comm.size
        calls: list[Callable[[], Any]] = [
            lambda: comm.gather(np.ones(2), n - 1),
            lambda: comm.allreduce(np.ones(200_000)),
            lambda: comm.alltoall(np.arange(n)),
        ]
        for late in (0, n - 1):
            for call in calls:
                if comm.rank == late:
                    time.sleep(0.6)  # the others wait long enough to ask
                call()
        assert comm.allreduce(np.array(1)) == n

    fresh(layout).run(program)


@pytest.mark.parametrize("layout", [Layout("aaa", "tcp"), Layout("aab")], ids=str)
def test_threads_may_use_communicators_in_any_order(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> list[int]:
        groups = [comm.dup(), comm.dup()]
        totals = [0, 0]

        def use(which: int) -> None:
            if which == comm.rank % 2:
                time.sleep(0.8)
            totals[which] = sum(int(groups[which].allreduce(np.array(which + 1))) for _ in range(3))

        threads = [threading.Thread(target=use, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return totals

    n = layout.size
    assert fresh(layout).run(program) == [[3 * n, 6 * n]] * n


def test_after_a_failure_the_communicator_stays_broken_and_says_why(fresh: Fresh) -> None:
    def program(comm: Comm) -> str:
        with pytest.raises(commops.MismatchError):
            comm.allreduce(np.zeros(3 + comm.rank % 2))
        texts = set()
        for call in (comm.barrier, comm.iallreduce, comm.send, comm.recv):
            arguments: tuple[Any, ...] = {"iallreduce": (np.zeros(3),), "send": (np.zeros(3), 0)}.get(
                call.__name__, ()
            )
            with pytest.raises(commops.MismatchError, match="broken") as caught:
                call(*arguments)
            texts.add(str(caught.value))
        assert len(texts) == 1
        comm.close()
        return texts.pop()

    for layout in LAYOUTS:
        assert all("allreduce(4 × float64" in text for text in fresh(layout).run(program))


def test_a_failure_of_one_communicator_leaves_others_alone(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        child = comm.dup()
        with pytest.raises(commops.MismatchError):
            child.allreduce(np.zeros(3 + comm.rank % 2))
        assert comm.allreduce(np.array(1)) == comm.size
        with comm.dup() as again:
            assert again.allreduce(np.array(1)) == comm.size

    for layout in LAYOUTS:
        fresh(layout).run(program)
