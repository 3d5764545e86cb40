"""Point to point: which message goes to which receive, and where it waits until then."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commops import ANY, Comm, Status
from commops.messages import Messages

from .cases import DTYPES
from .layouts import ALL, FEW, PAIRS, SMALL, Layout
from .memory import private_memory
from .strategies import examples
from .world import World

SIZES = (0, 1, 100, 20_000, 3_000_000)


@pytest.mark.parametrize("layout", ALL, ids=str)
def test_everyone_sends_to_everyone_itself_included(world: World) -> None:
    def program(comm: Comm, sizes: tuple[int, ...]) -> None:
        sends = [
            comm.isend(np.full(n, (100 * comm.rank + r) % 256, np.uint8), r, tag)
            for r in range(comm.size)
            for tag, n in enumerate(sizes)
        ]
        for source in reversed(range(comm.size)):
            for tag, n in reversed(list(enumerate(sizes))):
                got, status = comm.recv(source=source, tag=tag, status=True)
                assert status == Status(source, tag, n, np.dtype(np.uint8), (n,))
                assert np.array_equal(got, np.full(n, (100 * source + comm.rank) % 256, np.uint8))
        for work in sends:
            work.wait()

    world.run(program, SIZES[:4] if world.size > 3 else SIZES)


@pytest.mark.parametrize(
    "layout", [*PAIRS, Layout("ab", settings=SMALL), Layout("aa", "shm", SMALL)], ids=str
)
def test_messages_match_as_a_list_in_order_says(world: World) -> None:
    """Any interleaving of sends with any receives: each takes the first message that fits."""

    def program(
        comm: Comm, messages: list[tuple[int, int]], receives: list[int], posted_first: int
    ) -> list[int]:
        if comm.rank == 0:
            for number, (tag, n) in enumerate(messages):
                comm.isend(np.full(n + 1, number, np.int64), 1, tag)
            comm.barrier()
            return []
        early = [comm.irecv(None, 0, tag) for tag in receives[:posted_first]]
        got = [int(work.wait()[0]) for work in early]
        got += [int(comm.recv(None, 0, tag)[0]) for tag in receives[posted_first:]]
        comm.barrier()
        return got

    def model(messages: list[tuple[int, int]], receives: list[int]) -> list[int]:
        waiting = list(enumerate(tag for tag, _ in messages))
        got = []
        for wanted in receives:
            first = next(i for i, (_, tag) in enumerate(waiting) if wanted in (ANY, tag))
            got.append(waiting.pop(first)[0])
        return got

    message = st.tuples(st.integers(0, 3), st.sampled_from([0, 3, 40, 3000]))

    @examples(40)
    @given(data=st.data(), messages=st.lists(message, max_size=12))
    def check(data: st.DataObject, messages: list[tuple[int, int]]) -> None:
        # Tags in a random order, the first some of them as they are and then ANY: such a list of receives
        # never starves.
        tags = data.draw(st.permutations([tag for tag, _ in messages]))
        receives = tags[: data.draw(st.integers(0, len(tags)))]
        receives += [ANY] * (len(tags) - len(receives))
        posted_first = data.draw(st.integers(0, len(receives)))
        assert world.run(program, messages, receives, posted_first)[1] == model(messages, receives)

    check()


def test_from_any_source(world: World) -> None:
    def program(comm: Comm) -> list[tuple[int, int]]:
        if comm.rank:
            for i in range(5):
                comm.send(np.array([comm.rank, i]), 0, tag=comm.rank)
            return []
        got = []
        for _ in range(5 * (comm.size - 1)):
            array, status = comm.recv(source=ANY, tag=ANY, status=True)
            assert status.source == status.tag == array[0]
            got.append((status.source, int(array[1])))
        return got

    got = world.run(program)[0]
    for source in range(1, world.size):
        assert [i for r, i in got if r == source] == list(range(5))


def test_probe_tells_what_recv_then_gives(world: World) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            assert comm.iprobe() is None
            comm.barrier()
            first = comm.probe(source=1, tag=7)
            assert first == Status(1, 7, 24, np.dtype(np.complex64), (3, 1))
            assert comm.iprobe(1, 7) == comm.iprobe(ANY, 7) == comm.iprobe(1, ANY) == first
            assert comm.iprobe(1, 8) is None
            big = comm.probe(1, 9)
            assert big.shape == (1_000_000,)
            assert comm.recv(source=1, tag=9, status=True)[1] == big
            out = np.empty(first.shape, first.dtype)
            assert comm.recv(out, first.source, first.tag) is out
            assert out.tolist() == [[1], [1], [1]]
            assert comm.iprobe() is None
        elif comm.rank == 1:
            comm.barrier()
            comm.isend(np.ones((3, 1), np.complex64), 0, 7)
            comm.send(np.zeros(1_000_000), 0, 9)
        else:
            comm.barrier()
        comm.barrier()

    world.run(program)


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_every_dtype_and_layout_of_memory(world: World) -> None:
    def program(comm: Comm, names: list[str]) -> None:
        for name in names:
            base = np.arange(120).reshape(2, 3, 20).astype(DTYPES[name])
            for x in (base, base.T, base[:, ::-1, ::3], base[0, 0, 0], base[:, :0], np.asfortranarray(base)):
                out = np.zeros((*x.shape, 2), x.dtype)[..., 0]
                if comm.rank == 0:
                    comm.send(x, 1)
                    comm.send(x, 1)
                else:
                    got = comm.recv()
                    assert got.dtype == x.dtype
                    assert got.shape == x.shape
                    assert np.array_equal(got, x)
                    assert comm.recv(out) is out
                    assert np.array_equal(out, x)

    world.run(program, list(DTYPES))


def test_a_refused_message_stays(world: World) -> None:
    def program(comm: Comm, n: int) -> None:
        if comm.rank == 0:
            comm.isend(np.arange(n), 1, 5)
        elif comm.rank == 1:
            comm.probe(0, 5)
            for _ in range(2):
                with pytest.raises(TypeError, match="out must have dtype int64, not float64"):
                    comm.recv(np.zeros(n), 0, 5)
                with pytest.raises(ValueError, match=rf"out must have shape \({n},\), not \(1, {n}\)"):
                    comm.recv(np.zeros((1, n), np.int64), 0, 5)
            assert comm.probe().shape == (n,)
            assert np.array_equal(comm.recv(), np.arange(n))
        comm.barrier()

    for n in (4, 200_000):
        world.run(program, n)


def test_a_receive_that_was_there_first_refuses_too(world: World) -> None:
    def program(comm: Comm, n: int) -> None:
        if comm.rank == 1:
            works = [
                comm.irecv(np.zeros(n + 1, np.int64), 0),
                comm.irecv(np.zeros(n), 0),
                comm.irecv(None, 0),
            ]
            comm.barrier()
            errors = [work.exception() for work in works]
            assert [type(error) for error in errors] == [ValueError, TypeError, type(None)]
            assert np.array_equal(works[2].result(), np.arange(n))
        else:
            comm.barrier()
        if comm.rank == 0:
            comm.send(np.arange(n), 1)
        comm.barrier()

    for n in (4, 200_000):
        world.run(program, n)


def test_sendrecv_turns_a_ring(world: World) -> None:
    def program(comm: Comm, n: int) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        got = comm.sendrecv(np.full(n, comm.rank), right, left)
        assert np.array_equal(got, np.full(n, left))
        x = np.full(n, comm.rank)
        assert comm.sendrecv(x, right, left, out=x, tag=4) is x
        assert np.array_equal(x, np.full(n, left))
        work = comm.isendrecv(x, left, right)
        assert np.array_equal(work.wait(), np.full(n, comm.rank))
        assert comm.sendrecv(np.array(3), comm.rank, comm.rank) == 3

    for n in (0, 1, 500_000):
        world.run(program, n)


def test_many_in_progress(world: World) -> None:
    def program(comm: Comm, count: int) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        receives = [comm.irecv(None, left, tag) for tag in range(0, count, 2)]
        sends = [comm.isend(np.full(tag % 50, tag), right, tag) for tag in range(count)]
        receives += [comm.irecv(None, left, tag) for tag in reversed(range(1, count, 2))]
        tags = [*range(0, count, 2), *reversed(range(1, count, 2))]
        for tag, work in zip(tags, receives, strict=True):
            assert np.array_equal(work.wait(), np.full(tag % 50, tag))
        for work in sends:
            work.wait()

    world.run(program, 2000)


def test_a_sendrecv_whose_room_does_not_fit_has_sent_and_leaves_what_came(world: World) -> None:
    def program(comm: Comm) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        for n in (3, 5000, 200_000):
            x = np.full(n, comm.rank)
            for too_small in (np.empty(n - 1, x.dtype), np.empty(n, np.float32)):
                with pytest.raises((TypeError, ValueError), match="out"):
                    comm.sendrecv(x, right, left, out=too_small)
                assert np.array_equal(comm.recv(source=left), np.full(n, left))
        comm.barrier()

    world.run(program)


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_a_sendrecv_returns_when_what_it_sends_may_be_used_again(world: World) -> None:
    """Though what came first did not fit, and another thread has taken that before anybody could say so."""

    def program(comm: Comm) -> None:
        x = np.ones(1_000_000)
        if comm.rank == 0:
            recv = Messages.recv

            def late(self: Comm, *args: Any, **options: Any) -> Any:
                Messages.recv = recv  # type: ignore[method-assign]
                self.recv(np.empty(5), 1)  # what the other thread does
                return self.recv(*args, **options)

            Messages.recv = late  # type: ignore[method-assign]
            comm.sendrecv(x, 1, 1, np.empty(3))
            x[:] = -1
        else:
            comm.send(np.ones(5), 0)
            comm.send(np.ones(3), 0)
            time.sleep(0.2)  # time for rank 0 to return too early
            assert (comm.recv(np.empty_like(x), 0) == 1).all()

    world.run(program)


def test_a_sendrecv_out_of_what_it_sends(world: World) -> None:
    """Overlapping arrays: what is sent is what stood there before."""

    def program(comm: Comm) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        for n in (4, 6000, 100_000):
            both = np.arange(n + n // 2) + comm.rank
            comm.sendrecv(both[:n], right, left, out=both[n // 2 :])
            assert np.array_equal(both[n // 2 :], np.arange(n) + left)

    world.run(program)


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_a_large_message_waits_at_its_sender(world: World) -> None:
    """64 MiB to a rank that comes late: it holds none of them before its receive."""

    def program(comm: Comm, n: int) -> tuple[int, bool]:
        if comm.rank == 0:
            x = np.arange(n, dtype=np.uint64)
            work = comm.isend(x, 1)
            comm.barrier()
            comm.barrier()
            waits = not work.done()
            comm.send(np.array(0), 1, 1)
            work.wait()
            return 0, waits
        before = private_memory()
        comm.barrier()
        comm.probe(0, 0)
        comm.iprobe(0, 1)
        grown = private_memory() - before
        comm.barrier()
        comm.recv(source=0, tag=1)
        got = comm.recv(source=0, tag=0)
        assert np.array_equal(got, np.arange(n, dtype=np.uint64))
        return grown, True

    (_, waits), (grown, _) = world.run(program, 8 << 20)
    assert waits
    assert grown < 8 << 20


@pytest.mark.parametrize("layout", PAIRS, ids=str)
def test_small_messages_wait_in_bounded_memory(world: World) -> None:
    """The receiver takes in so many bytes of early messages and no more; the others wait at the sender."""

    def program(comm: Comm, count: int, n: int) -> int:
        if comm.rank == 0:
            works = [comm.isend(np.full(n, i % 256, np.uint8), 1) for i in range(count)]
            comm.barrier()
            comm.barrier()
            for work in works:
                work.wait()
            return 0
        before = private_memory()
        comm.barrier()
        comm.probe()
        for _ in range(100):
            comm.iprobe()
        grown = private_memory() - before
        comm.barrier()
        for i in range(count):
            assert (comm.recv() == i % 256).all()
        return grown

    assert world.run(program, 3000, 10_000)[1] < 8 << 20  # of 30 MB


def test_send_returns_when_the_array_may_be_changed(world: World) -> None:
    def program(comm: Comm, n: int) -> None:
        if comm.rank == 0:
            x = np.zeros(n, np.int64)
            for i in range(20):
                x[...] = i
                comm.send(x, 1)
            x[...] = -1
        elif comm.rank == 1:
            for i in range(20):
                assert (comm.recv() == i).all()
        comm.barrier()

    for n in (1, 1000, 100_000):
        world.run(program, n)


def test_messages_and_collectives_do_not_mix(world: World) -> None:
    def program(comm: Comm) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        for i in range(30):
            work = comm.isend(np.array([comm.rank, i]), right, i)
            assert comm.allreduce(np.array(1)) == comm.size
            got = comm.irecv(None, left, i)
            assert comm.broadcast(np.array(i)) == i
            assert got.wait().tolist() == [left, i]
            work.wait()

    world.run(program)


@pytest.mark.parametrize("layout", FEW, ids=str)
def test_tags_up_to_the_largest(world: World) -> None:
    def program(comm: Comm) -> None:
        tags = [0, 1, 2**31, 2**32 + 1, 2**62 - 1]
        for tag in tags:
            comm.isend(np.array(tag), (comm.rank + 1) % comm.size, tag)
        for tag in reversed(tags):
            assert comm.recv(tag=tag) == tag

    world.run(program)


def test_a_sender_does_not_wait_for_small_messages_to_be_received(world: World) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            for i in range(10):
                comm.send(np.array(i), 1, i)  # its receives all come after the barrier
        comm.barrier()
        if comm.rank == 1:
            for i in reversed(range(10)):
                assert comm.recv(tag=i) == i

    world.run(program)


def test_recv_sleeps_until_something_comes(world: World) -> None:
    def program(comm: Comm) -> float:
        if comm.rank == 0:
            time.sleep(1)
            comm.send(np.zeros(1), 1)
            return 0
        if comm.rank == 2:
            return 0
        before = time.process_time()
        comm.recv()
        return time.process_time() - before

    used: list[Any] = world.run(program)
    assert used[1] < 0.5  # of a second of processor time, while a second passed
