"""split and dup: who is in which group, under which number; and the life of communicators."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import commops
from commops import Comm

from .layouts import EVERY, FEW, SMALL, Layout
from .strategies import examples
from .world import World


def groups_of(choices: list[tuple[int | None, int]]) -> list[list[int] | None]:
    """Return for each rank the members of its group in their new order."""
    return [
        None
        if color is None
        else sorted((r for r, (c, _) in enumerate(choices) if c == color), key=lambda r: (choices[r][1], r))
        for color, _ in choices
    ]


def split(comm: Comm, choices: list[tuple[int | None, int]], depth: int) -> list[list[int]]:
    """Split again and again, using every group on the way; return the members of each as first numbered."""
    found = []
    ranks = np.arange(comm.size)
    parents = []
    for level in range(depth):
        color, key = choices[comm.rank]
        child = comm.split(None if color is None else color % (2 + level), key)
        if child is None:
            break
        ranks = child.allgather(np.array(ranks[comm.rank]))
        found.append(ranks.tolist())
        assert child.size == len(ranks)
        assert len(child.hosts) == child.size
        assert 0 <= child.local_rank < child.local_size <= child.size
        assert child.allreduce(np.full(500, child.rank))[0] == child.size * (child.size - 1) // 2
        assert child.broadcast(np.array(child.rank), child.size - 1) == child.size - 1
        right, left = (child.rank + 1) % child.size, (child.rank - 1) % child.size
        assert child.sendrecv(np.array(child.rank), right, left) == left
        parents.append(comm)
        comm = child
        choices = [(c, -k) for c, k in choices]
    for each in reversed(parents[1:]):
        each.close()
    if parents:
        comm.close()
    return found


@pytest.mark.parametrize("layout", EVERY, ids=str)
def test_a_split_groups_by_color_and_numbers_by_key(
    layout: Layout, worlds: Callable[[Layout], World]
) -> None:
    choice = st.tuples(st.none() | st.integers(0, 2), st.integers(-3, 3))

    @examples(10)
    @given(st.lists(choice, min_size=layout.size, max_size=layout.size))
    def check(choices: list[tuple[int | None, int]]) -> None:
        found = worlds(layout).run(split, choices, 1)
        wanted = groups_of([(None if c is None else c % 2, k) for c, k in choices])
        assert found == [[] if group is None else [group] for group in wanted]

    check()


@pytest.mark.parametrize("layout", [*FEW, Layout("abaab"), Layout("aabb", settings=SMALL)], ids=str)
def test_splits_of_splits(world: World) -> None:
    n = world.size
    for choices in (
        [(0, -r) for r in range(n)],
        [(r % 2, r) for r in range(n)],
        [(r // 2, 0) for r in range(n)],
    ):
        for ranks in zip(*world.run(split, choices, 3), strict=False):
            for rank, members in enumerate(ranks):
                assert rank in members


def test_ranks_of_a_group_know_their_hosts(worlds: Callable[[Layout], World]) -> None:
    def program(comm: Comm) -> list[tuple[tuple[str, ...], int, int]]:
        child = comm.split(0, -comm.rank)
        assert child is not None
        with child:
            return [(c.hosts, c.local_rank, c.local_size) for c in (comm, child)]

    got = worlds(Layout("abaab")).run(program)
    a, b = "host-a", "host-b"
    assert [first for first, _ in got] == [
        ((a, b, a, a, b), local, size) for local, size in [(0, 3), (0, 2), (1, 3), (2, 3), (1, 2)]
    ]
    assert [second for _, second in got] == [
        ((b, a, a, b, a), local, size) for local, size in [(2, 3), (1, 2), (1, 3), (0, 3), (0, 2)]
    ]


def test_a_dup_keeps_its_own_messages_and_order(world: World) -> None:
    def program(comm: Comm) -> None:
        with comm.dup() as other:
            assert (other.rank, other.size, other.hosts) == (comm.rank, comm.size, comm.hosts)
            assert other.timeout == comm.timeout
            if comm.rank == 0:
                comm.isend(np.array(1), 1, 5)
                other.isend(np.array(2), 1, 5)
            elif comm.rank == 1:
                assert other.recv(source=0, tag=5) == 2
                assert comm.recv(source=0, tag=5) == 1
            first, second = comm.iallreduce(np.array(1)), other.iallreduce(np.array(10))
            if comm.rank == 1:
                assert second.wait() == 10 * comm.size
            assert first.wait() == comm.size
            assert second.wait() == 10 * comm.size

    world.run(program)


def test_a_message_may_come_before_its_communicator_is_made_here(world: World) -> None:
    def program(comm: Comm) -> None:
        for _ in range(20):
            child = comm.split(0, comm.rank)
            assert child is not None
            child.isend(np.full(10, comm.rank), (comm.rank + 1) % comm.size)
            assert (child.recv() == (comm.rank - 1) % comm.size).all()
            child.barrier()
            child.close()

    world.run(program)


def test_closed_communicators_give_back_what_they_hold(world: World) -> None:
    def program(comm: Comm) -> None:
        def make_and_close() -> int:
            for _ in range(5):
                child = comm.dup()
                child.allreduce(np.ones(10_000))
                child.close()
            comm.barrier()
            comm.dup().close()
            used: int = comm._core.window.used
            return used

        first = make_and_close()
        assert all(make_and_close() <= 2 * first for _ in range(10))
        assert len(os.listdir("/proc/self/fd")) < 100

    world.run(program)


def test_after_close_every_call_says_so(world: World) -> None:
    def program(comm: Comm) -> None:
        child = comm.dup()
        child.close()
        child.close()
        x = np.zeros(3)
        for call in (
            lambda: child.barrier(),
            lambda: child.allreduce(x),
            lambda: child.iallreduce(x),
            lambda: child.send(x, 0),
            lambda: child.recv(),
            lambda: child.iprobe(),
            lambda: child.probe(),
            lambda: child.split(0),
            lambda: child.dup(),
            lambda: child.empty(3),
            lambda: child.broadcast_object(1),
        ):
            with pytest.raises(commops.RevokedError, match="closed"):
                call()
        assert "closed" in repr(child)
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)


def test_the_world_closes_when_its_context_ends(fresh: Callable[..., World]) -> None:
    def program(comm: Comm) -> None:
        with comm as same:
            assert same is comm
            child = comm.dup()
            assert child.allreduce(np.array(1)) == comm.size
        for each in (comm, child):
            with pytest.raises(commops.RevokedError, match="closed"):
                each.barrier()

    for layout in FEW:
        fresh(layout).run(program)


@pytest.mark.parametrize(
    ("color", "key", "error", "text"),
    [
        (1.0, 0, TypeError, "color must be a whole number or None, not 1.0"),
        (True, 0, TypeError, "color must be a whole number or None, not True"),
        (-1, 0, ValueError, r"color must be from 0 to 2\*\*62 - 1, or None, not -1"),
        (2**62, 0, ValueError, "color must be"),
        (0, "a", TypeError, "key must be a whole number, not 'a'"),
        (0, 2**63, ValueError, "key must be"),
    ],
)
def test_a_bad_color_or_key(
    world: World, color: object, key: object, error: type[Exception], text: str
) -> None:
    def program(comm: Comm, color: int, key: int, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            comm.split(color, key)
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program, color, key, error, text)


def test_a_communicator_is_not_pickled(world: World) -> None:
    def program(comm: Comm) -> None:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(comm)
        with pytest.raises(TypeError, match="cannot be pickled"):
            comm.send_object(comm, 0)
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)


def test_a_forked_child_cannot_use_the_communicator(world: World) -> None:
    def program(comm: Comm) -> None:
        shared = comm.zeros(10)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(20)
                for call in (
                    lambda: comm.allreduce(np.zeros(3)),
                    lambda: comm.send(np.zeros(3), 0),
                    lambda: comm.iprobe(),
                    lambda: comm.dup(),
                ):
                    with pytest.raises(commops.CommError, match="fork"):
                        call()
                comm.close()
                del shared
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert comm.allreduce(shared).tolist() == [0] * 10

    world.run(program)


def test_alone() -> None:
    with commops.init() as comm:
        assert (comm.rank, comm.size, comm.local_rank, comm.local_size, comm.generation) == (0, 1, 0, 1, 0)
        assert len(comm.hosts) == 1
        x = np.arange(6.0)
        assert comm.allreduce(x).tolist() == x.tolist()
        assert comm.allreduce(x, out=x) is x
        assert comm.alltoall(x).tolist() == x.tolist()
        assert comm.sendrecv(x, 0, 0).tolist() == x.tolist()
        assert comm.allgather_object("a") == ["a"]
        child = comm.split(3)
        assert child is not None
        assert child.size == 1
        assert comm.split(None) is None
