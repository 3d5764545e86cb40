"""What revoke, agree and shrink promise while nobody dies, and to those who come late."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import commops
from comm.layouts import Layout
from comm.world import World
from commops import Comm

Fresh = Callable[..., World]
# What shrink says of two of three ranks that are in a call instead.
MISSING = (
    r"missing: 1, 2, without which 1 of 3 ranks may not go on; "
    r"rank 1 is in recv from rank 0, at \S+ since \S+ s; rank 2 is in recv from rank 0, "
)
LAYOUTS = [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab")]
CLOSED_IN = ["allreduce", "large", "started", "iprobe", "probe", "revoke", "agree", "shrink"]


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout("a", "shm")], ids=str)
def test_agree_is_the_and_of_all_flags(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> list[Any]:
        return [
            comm.agree(True),
            comm.agree(comm.rank != 0),
            comm.agree(np.bool_(True)),
            comm.agree((1 << 63) + 0b110 + comm.rank % 2),
            comm.agree(2**64 - 1),
        ]

    last = 2**63 + 0b110
    assert fresh(layout).run(program) == [[True, False, True, last, 2**64 - 1]] * layout.size


def test_a_flag_that_is_none(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        for wrong, kind in ((-1, ValueError), (2**64, ValueError), (0.5, TypeError), ("x", TypeError)):
            with pytest.raises(kind, match="flag must be"):
                comm.agree(wrong)  # type: ignore[arg-type]
        assert comm.agree(True)

    fresh(LAYOUTS[0]).run(program)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_revoke_ends_the_calls_of_all(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> tuple[str, int, bool]:
        child = comm.dup()
        started = child.irecv(source=1, tag=3) if comm.rank != 1 else None
        comm.barrier()
        if comm.rank == 1:
            child.revoke()
            child.revoke()  # twice is once
        with pytest.raises(commops.RevokedError, match="rank 1 has revoked it"):
            child.allreduce(np.ones(5))
        if started:
            with pytest.raises(commops.RevokedError, match="rank 1 has revoked it"):
                started.wait()
        with pytest.raises(commops.RevokedError, match="rank 1 has revoked it"):
            child.isend(np.ones(5), 0)
        assert comm.allreduce(np.array(1)) == comm.size  # others are not touched
        new = child.shrink()
        return repr(new), new.generation, bool(new.allreduce(np.array(1)) == comm.size)

    ends = fresh(layout).run(program)
    assert ends == [(f"<commops.Comm rank {rank} of {layout.size}>", 1, True) for rank in range(layout.size)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_one_agrees_and_another_shrinks(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        with pytest.raises(commops.MismatchError, match="some ranks have called agree and others shrink"):
            comm.shrink() if comm.rank == 1 else comm.agree(True)
        assert comm.agree(True)

    fresh(layout).run(program)


@pytest.mark.parametrize("layout", [Layout("aa", "shm"), *LAYOUTS], ids=str)
@pytest.mark.parametrize("call", ["agree", "shrink"])
@pytest.mark.parametrize("odd", [0, -1])
def test_a_collective_in_place_of_an_agreement_ends_and_the_agreement_may_go_on(
    fresh: Fresh, layout: Layout, call: str, odd: int
) -> None:
    def program(comm: Comm, call: str, odd: int) -> str:
        told = ""
        comm.barrier()
        if comm.rank == odd:
            start = time.monotonic()
            with pytest.raises(commops.MismatchError) as caught:
                comm.allreduce(np.ones((2, 2)))
            assert time.monotonic() - start < 30
            told = str(caught.value)
        if call == "agree":
            assert comm.agree(True)
        else:
            assert comm.shrink().allreduce(np.array(1)) == comm.size
        return told

    odd %= layout.size
    told = fresh(layout, timeout=60).run(program, call, odd)[odd]
    asking = (odd + 1) % layout.size
    assert told.startswith("rank "), told
    assert (
        f" is in {call} after its collective number 1 of this communicator, and rank {odd} in number 2"
        in told
    )
    assert told.endswith("allreduce(4 × float64 of shape (2, 2), op=sum)"), told
    assert layout.size > 2 or told.startswith(f"rank {asking} is in "), told


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_late_collective_is_none_in_place_of_an_agreement(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> None:
        """Rank 1 gives the others time to ask, in the call before the agreement and in those after it."""
        for number in range(3):
            works = [comm.iallreduce(np.ones(3)) for _ in range(number)]
            if comm.rank == 1:
                time.sleep(0.6)
            if number != 1:
                comm.broadcast(np.ones(3), root=0)
            assert comm.agree(True)
            if comm.rank == 2:
                time.sleep(0.6)
            for work in works:
                work.wait()
            comm.barrier()

    fresh(layout).run(program)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("call", ["agree", "shrink"])
def test_a_collective_after_an_agreement_that_was_given_up_is_none_in_its_place(
    fresh: Fresh, layout: Layout, call: str
) -> None:
    def program(comm: Comm, call: str) -> None:
        comm.barrier()
        if comm.rank == 0:
            comm.timeout = 0.2
            with pytest.raises(commops.CommTimeoutError):
                comm.agree(True) if call == "agree" else comm.shrink()
            comm.timeout = 30
            time.sleep(
                1.0
            )  # the others are in the next call, wait long enough to ask, and hear no answer but this
        else:
            time.sleep(0.4)
        comm.allreduce(np.ones(3))
        assert comm.agree(True) if call == "agree" else comm.shrink().size == comm.size

    fresh(layout).run(program, call)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_who_lives_and_does_not_shrink_is_told_and_may_still_come(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> int:
        if comm.rank == 0:
            comm.timeout = 1
            with pytest.raises(commops.CommTimeoutError, match=MISSING):
                comm.shrink()
            comm.timeout = 60
            for other in (1, 2):
                comm.send(np.ones(1), other)
        else:
            comm.recv(source=0)
        new = comm.shrink()
        return int(new.allreduce(np.array(1)))

    assert fresh(layout).run(program) == [3, 3, 3]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_rank_that_does_not_call_is_named(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> bool:
        if comm.rank != 1:
            comm.timeout = 0.5
            with pytest.raises(commops.CommTimeoutError, match=r"within 0\.5 s; missing: 1"):
                comm.agree(comm.rank != 2)
            comm.timeout = 30
            comm.send(np.ones(1), 1)
        else:
            for other in (0, 2):
                comm.recv(source=other)
        return bool(comm.agree(comm.rank != 2))  # the same agreement as the one that took too long

    assert fresh(layout).run(program) == [False] * layout.size


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout("aaa", "shm", name="again")], ids=str)
@pytest.mark.parametrize("n", [2, 300_000])
@pytest.mark.parametrize("where", ["anywhere", "between calls"])
def test_a_rank_that_stands_still_is_named_and_left_behind(
    fresh: Fresh, layout: Layout, n: int, where: str
) -> None:
    def program(comm: Comm, n: int, where: str) -> Any:
        total = np.float64(0)
        try:
            for number in itertools.count():
                if where == "between calls" and number == 20 and comm.rank == 1:
                    os.kill(os.getpid(), signal.SIGSTOP)
                start = time.monotonic()
                total = comm.allreduce(np.ones(n))[-1]
        except (commops.CommTimeoutError, commops.RevokedError) as error:
            assert total in (0, comm.size)
            told = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - start
        try:
            new = comm.shrink()
        except commops.RevokedError as error:
            return told, str(error)
        return told, seconds, new.size, new.allreduce(np.ones(n))[-1]

    world = fresh(layout, timeout=1.0)
    stopped = 1
    world.start(program, n, where)
    if where == "anywhere":
        time.sleep(0.1)
        world.signal(stopped, signal.SIGSTOP)
    others = [rank for rank in range(layout.size) if rank != stopped]
    for told, seconds, size, total in world.collect(others):
        assert told.startswith("CommTimeoutError: allreduce passed its deadline of 1 s")
        assert seconds < 1 + 1
        # Another may still be in the call before, in which it waits for that one too.
        assert re.search(r"(missing|does not move): (\d, )*1", told), told
        assert size == total == layout.size - 1
    world.signal(stopped, signal.SIGCONT)
    ((told, end),) = world.collect([stopped])
    # It hears of the deadline, or of what the others did next, whichever comes first.
    given_up = "the other ranks have given up waiting for this one: allreduce passed its deadline of 1 s"
    gone_on = "the other ranks have gone on without this one"
    assert told.startswith("RevokedError: "), told
    assert given_up in told or gone_on in told
    assert "have gone on without this one" in end


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_who_waits_for_a_message_hears_that_the_others_have_gone_on(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> Any:
        comm.barrier()
        if comm.rank == 1:
            comm.timeout = 60
            with pytest.raises(commops.RevokedError, match="have gone on without this one"):
                comm.recv(source=0)
            with pytest.raises(commops.RevokedError, match="have gone on without this one"):
                comm.barrier()
            return None
        comm.timeout = 1
        new = comm.shrink()
        assert new.allreduce(np.array(1)) == comm.size - 1
        comm.send(np.ones(1), 2 - comm.rank)  # the old one is as it was
        return new.size + comm.recv(source=2 - comm.rank)[0]

    assert fresh(layout).run(program) == [3, None, 3]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_rank_that_stands_still_for_less_than_the_time_out(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> int:
        return sum(int(comm.allreduce(np.array(1))) for _ in range(2000))

    world = fresh(layout)
    world.start(program)
    world.signal(1, signal.SIGSTOP)
    time.sleep(1)
    world.signal(1, signal.SIGCONT)
    assert world.collect() == [2000 * layout.size] * layout.size


def test_what_was_sent_in_an_older_generation_is_not_received_in_the_next(fresh: Fresh) -> None:
    def program(comm: Comm) -> int:
        comm.isend(np.array(1), (comm.rank + 1) % comm.size, 5)  # nobody receives it
        with contextlib.suppress(commops.RevokedError):
            comm.barrier()  # who is through it may revoke while others still wait
        comm.revoke()
        new = comm.shrink()
        new.send(np.array(2), (new.rank + 1) % new.size, 5)
        got = int(new.recv(source=commops.ANY, tag=5))
        assert new.iprobe() is None
        return got

    for layout in LAYOUTS:
        assert fresh(layout).run(program) == [2] * layout.size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_ctrl_c_in_shrink_and_once_more(fresh: Fresh, layout: Layout, pause: float) -> None:
    """Who was interrupted is in no agreement, and enters the same one when it calls again, however late."""

    def program(comm: Comm, pause: float) -> int:
        comm.barrier()
        if comm.rank == 1:
            with pytest.raises(KeyboardInterrupt):
                comm.shrink()  # the others are not there yet
            for other in (0, 2):
                comm.send(np.ones(1), other)
            time.sleep(pause)
        else:
            comm.recv(source=1)
        new = comm.shrink()
        assert (new.allreduce(np.ones(100)) == new.size).all()
        return new.size

    world = fresh(layout)
    world.start(program, pause)
    time.sleep(0.3)
    world.signal(1, signal.SIGINT)
    assert world.collect() == [layout.size] * layout.size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_all_who_shrink_have_the_same_group_though_one_stands_still_in_it(
    fresh: Fresh, layout: Layout
) -> None:
    def program(comm: Comm) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        end = time.monotonic() + 3
        current = comm
        while time.monotonic() < end:
            try:
                new = current.shrink()
            except commops.CommTimeoutError:
                continue
            except commops.RevokedError:
                break
            made.append((new.generation, new.size))
            current = new
            if new.size < comm.size:
                break
        return made

    for instant in (0.02, 0.05, 0.11):
        world = fresh(layout, timeout=1.0)
        world.start(program)
        time.sleep(instant)
        world.signal(2, signal.SIGSTOP)
        time.sleep(2)
        world.signal(2, signal.SIGCONT)
        zero, one, two = world.collect()
        assert zero == one
        assert set(two[-1:]) <= set(zero)  # the last that it was in, if it was in any
        groups = dict(zero)
        assert all(groups.get(generation, size) == size for generation, size in two)


@pytest.mark.parametrize("layout", [Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab")], ids=str)
def test_who_only_looks_for_messages_hears_of_a_death(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> tuple[int, ...]:
        comm.barrier()
        if comm.rank == 1:
            time.sleep(60)
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                comm.iprobe(source=1)
        except commops.PeerLostError as error:
            return error.ranks
        return ()

    world = fresh(layout)
    world.start(program)
    time.sleep(0.2)
    world.signal(1, signal.SIGKILL)
    assert world.collect()[0] == (1,)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    "call", ["allreduce", "large", "started", "iprobe", "probe", "revoke", "agree", "shrink"]
)
def test_closing_while_another_thread_calls(fresh: Fresh, layout: Layout, call: str) -> None:
    def program(comm: Comm, call: str) -> int:
        def shrink(child: Comm) -> None:
            """Others count on who closes in the middle of it, until their time is up."""
            child.timeout = 0.05
            with contextlib.suppress(commops.CommTimeoutError):
                child.shrink().close()

        calls: dict[str, Callable[[Comm], object]] = {
            "allreduce": lambda c: c.allreduce(np.ones(10)),
            "large": lambda c: c.allreduce(np.ones(200_000)),
            "started": lambda c: c.iallreduce(np.ones(10)).wait(),
            "iprobe": lambda c: c.iprobe(),
            "probe": lambda c: c.probe(),
            "revoke": lambda c: c.revoke(),
            "agree": lambda c: c.agree(True),
            "shrink": shrink,
        }
        ended = []
        for number in range(60):
            child = comm.dup()

            def use(child: Comm = child) -> None:
                try:
                    while True:
                        calls[call](child)
                except commops.CommError as error:
                    ended.append(error)

            thread = threading.Thread(target=use)
            thread.start()
            time.sleep(0.0005 * (number % 7) * (1 + comm.rank))
            child.close()
            thread.join()
        assert comm.allreduce(np.array(1)) == comm.size
        return len(ended)

    assert fresh(layout).run(program, call) == [60] * layout.size


def test_a_shrink_that_came_to_nothing_gives_its_memory_back(fresh: Fresh) -> None:
    rounds, warm = 60, 10

    def program(comm: Comm, rounds: int, warm: int) -> int:
        used = 0
        for number in range(rounds):
            child = comm.dup()
            if comm.rank == 0:
                child.timeout = 0.02
                with pytest.raises(commops.CommTimeoutError):  # it is alone
                    child.shrink()
            comm.barrier()
            child.close()
            comm.barrier()
            if number == warm:
                used = comm._core.window.used
        return int(comm._core.window.used) - used

    # Each round takes 2 MiB. What others still touch comes back later: that of a few rounds, however many.
    assert max(fresh(Layout("aaa", "shm")).run(program, rounds, warm)) < 8 << 20
