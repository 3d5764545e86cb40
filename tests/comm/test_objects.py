"""Python objects: what arrives is what was sent, with large arrays beside the pickle instead of in it."""

from __future__ import annotations

import operator
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import commops
from commops import Comm
from commops.pickling import pack, unpack

from .cases import Array
from .layouts import ALL, FEW, Layout
from .world import Raised, World

_leaves = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False)
_objects = st.recursive(
    _leaves, lambda some: st.lists(some) | st.dictionaries(st.text(), some) | st.tuples(some, some)
)


@given(_objects)
def test_unpacked_is_what_was_packed(obj: object) -> None:
    assert unpack(pack(obj)) == obj


@given(st.lists(st.integers(0, 300), max_size=6))
def test_arrays_look_into_the_received_bytes(sizes: list[int]) -> None:
    arrays = [np.arange(n, dtype=np.float64) for n in sizes]
    packed = pack(arrays)
    for sent, got in zip(arrays, unpack(packed), strict=True):
        assert np.array_equal(sent, got)
        assert got.flags.writeable
        assert got.nbytes == 0 or (
            np.may_share_memory(got, packed) and (got.ctypes.data - packed.ctypes.data) % 64 == 0
        )


def test_an_array_in_fortran_order_stays_so() -> None:
    array = np.asfortranarray(np.arange(12).reshape(3, 4))
    got = unpack(pack(array))
    assert np.array_equal(got, array)
    assert got.flags.f_contiguous


@pytest.mark.parametrize(
    "data", [b"", b"short", bytes(16), b"\xff" * 64, b"\x00" * 8 + b"\xff" * 8 + bytes(48)]
)
def test_bytes_that_are_no_object_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, pickle.UnpicklingError, EOFError)):
        unpack(np.frombuffer(data, np.uint8))


def message_of(rank: int) -> dict[str, Any]:
    big = np.arange(200_000, dtype=np.float64) + rank
    shared: list[Any] = [rank, big]
    return {
        "rank": rank,
        "big": big,
        "twice": [shared, shared],
        "text": "ä" * rank,
        "nothing": np.empty(0),
        "set": {rank},
    }


def is_message_of(obj: Any, rank: int) -> bool:
    wanted = message_of(rank)
    return (
        obj.keys() == wanted.keys()
        and obj["rank"] == rank
        and np.array_equal(obj["big"], wanted["big"])
        and obj["big"].flags.writeable
        and obj["big"].ctypes.data % 16 == 0
        and obj["twice"][0] is obj["twice"][1]
        and obj["twice"][0][1] is obj["big"]
        and obj["text"] == wanted["text"]
        and obj["set"] == {rank}
    )


@pytest.mark.parametrize("layout", ALL, ids=str)
@pytest.mark.parametrize("blocking", [True, False])
def test_every_call_with_objects(world: World, blocking: bool) -> None:
    def program(comm: Comm, blocking: bool) -> None:
        def call(name: str, *arguments: object) -> Any:
            return (
                getattr(comm, name)(*arguments) if blocking else getattr(comm, "i" + name)(*arguments).wait()
            )

        size, rank = comm.size, comm.rank
        mine = message_of(rank)
        for root in range(size):
            got = call("broadcast_object", mine if rank == root else None, root)
            assert is_message_of(got, root)
            assert (got is mine) == (rank == root)
            messages = [message_of(r) for r in range(size)] if rank == root else None
            assert is_message_of(call("scatter_object", messages, root), rank)
            gathered = call("gather_object", mine, root)
            assert (gathered is None) == (rank != root)
            assert gathered is None or all(is_message_of(obj, r) for r, obj in enumerate(gathered))
            joined = call("reduce_object", [rank], "sum", root)
            assert joined == (list(range(size)) if rank == root else None)
        assert all(is_message_of(obj, r) for r, obj in enumerate(call("allgather_object", mine)))
        sent = call("alltoall_object", [(rank, r, message_of(rank)) for r in range(size)])
        assert [(a, b) for a, b, _ in sent] == [(r, rank) for r in range(size)]
        assert all(is_message_of(obj, r) for r, (_, _, obj) in enumerate(sent))
        assert call("allreduce_object", f"{rank}", operator.add) == "".join(map(str, range(size)))
        assert call("allreduce_object", {rank}, "bor") == set(range(size))
        assert call("allreduce_object", rank, "max") == size - 1

    world.run(program, blocking)


def test_objects_go_point_to_point(world: World) -> None:
    def program(comm: Comm) -> None:
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        work = comm.isend_object(message_of(comm.rank), right, tag=3)
        obj, status = comm.recv_object(left, 3, status=True)
        work.wait()
        assert is_message_of(obj, left)
        assert (status.source, status.tag, status.dtype) == (left, 3, None)

    world.run(program)


@pytest.mark.parametrize("layout", FEW, ids=str)
def test_objects_of_many_buffers_go_point_to_point(world: World) -> None:
    """Large ones are sent from where their arrays lie."""

    def program(comm: Comm) -> None:
        swapped = np.dtype("f8").newbyteorder()
        for n in (0, 1, 1000, 8191, 8192, 300_000):
            mine = np.arange(n)
            obj = [mine, mine, np.empty(0), np.asfortranarray(np.ones((3, n), "f4")), {"n": np.array(n)}]
            obj += [mine.astype(swapped), mine.astype("M8[s]"), mine[::2], np.zeros(n, "i4,f8"), bytes(n)]
            if comm.rank == 0:
                comm.send_object(obj, 1)
            elif comm.rank == 1:
                got = comm.recv_object(0)
                assert got[0] is got[1]
                assert got[3].flags.f_contiguous
                for sent, come in zip(obj, got, strict=True):
                    if isinstance(sent, np.ndarray):
                        assert np.array_equal(sent, come)
                        assert sent.dtype == come.dtype
                        assert come.flags.writeable
                    else:
                        assert sent == come

    world.run(program)


def test_an_array_is_not_received_as_an_object_nor_an_object_as_an_array(world: World) -> None:
    def program(comm: Comm) -> None:
        if comm.rank == 0:
            comm.send(np.arange(3), 1, tag=1)
            comm.send_object("text", 1, tag=2)
        elif comm.rank == 1:
            with pytest.raises(TypeError, match="rank 0 with tag 1 is an array: use recv"):
                comm.recv_object(tag=1)
            with pytest.raises(TypeError, match="rank 0 with tag 2 is a Python object: use recv_object"):
                comm.recv(tag=2)
            assert comm.recv(tag=1).tolist() == [0, 1, 2]
            assert comm.recv_object(tag=2) == "text"
        comm.barrier()

    world.run(program)


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("I will not be pickled")


class Fragile:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


def test_what_cannot_be_pickled_raises_before_anything_is_sent(world: World) -> None:
    def program(comm: Comm) -> None:
        everyone: list[object] = [Stubborn() for _ in range(comm.size)]
        for call in (
            lambda: comm.allgather_object(Stubborn()),
            lambda: comm.gather_object(Stubborn()),
            lambda: comm.allreduce_object(Stubborn()),
            lambda: comm.reduce_object(Stubborn()),
            lambda: comm.alltoall_object(everyone),
            lambda: comm.send_object(Stubborn(), 0),
            lambda: comm.broadcast_object(Stubborn(), comm.rank),
            lambda: comm.scatter_object(everyone, comm.rank),
        ):
            with pytest.raises(RuntimeError, match="I will not be pickled"):
                call()
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)


def test_what_is_none_of_pickles_is_a_type_error_that_names_it(world: World) -> None:
    """Pickle itself raises AttributeError for some, PicklingError for others, TypeError for the rest."""

    def program(comm: Comm) -> None:
        class Local:
            pass

        strange = Local
        strange.__qualname__ = "not_to_be_found"
        for thing in (lambda: 0, Local(), strange, threading.Lock(), [1, {2: (i for i in "")}]):
            many: list[object] = [0, thing, 0]
            for name, call in (
                ("obj", lambda thing=thing: comm.send_object(thing, 0)),
                ("obj", lambda thing=thing: comm.allgather_object(thing)),
                ("obj", lambda thing=thing: comm.reduce_object(thing)),
                ("obj", lambda thing=thing: comm.broadcast_object(thing, comm.rank)),
                (r"objs\[1\]", lambda many=many: comm.alltoall_object(many)),
                (r"objs\[1\]", lambda many=many: comm.scatter_object(many, comm.rank)),
            ):
                with pytest.raises(
                    TypeError, match=f"^{name} must be an object that can be pickled: .+"
                ) as info:
                    call()
                assert info.value.__cause__ is not None
            assert comm.allreduce(np.array(1)) == comm.size
            assert comm.iprobe() is None

    world.run(program)


def test_a_buffer_with_gaps_is_refused() -> None:
    class Gaps:
        def __reduce_ex__(self, protocol: Any) -> Any:
            return bytes, (pickle.PickleBuffer(memoryview(bytes(8))[::2]),)

    with pytest.raises(TypeError, match=r"obj must be an object that can be pickled: .*contiguous"):
        pack(Gaps())


def test_what_cannot_be_unpickled_raises_where_it_arrives_and_breaks_nothing(world: World) -> None:
    def program(comm: Comm) -> None:
        with pytest.raises(ZeroDivisionError):
            comm.allgather_object(Fragile())
        if comm.rank == 0:
            comm.broadcast_object(Fragile())
        else:
            with pytest.raises(ZeroDivisionError):
                comm.broadcast_object()
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)


def test_an_op_that_raises_breaks_nothing(world: World) -> None:
    def program(comm: Comm) -> None:
        with pytest.raises(ZeroDivisionError):
            comm.allreduce_object(0, lambda a, b: a // b)
        with pytest.raises(ZeroDivisionError):
            comm.allreduce(np.zeros(2), lambda a, b: a / 0 if 1 // 0 else b)
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda comm: comm.scatter_object(["one"], comm.rank),
            ValueError,
            "objs must have 3 objects, one for each rank, not 1",
        ),
        (lambda comm: comm.scatter_object("abc", comm.rank), TypeError, "objs must be a sequence .* not str"),
        (lambda comm: comm.alltoall_object(None), TypeError, "objs must be a sequence .* not NoneType"),
        (lambda comm: comm.alltoall_object({0, 1, 2}), TypeError, "objs must be a sequence .* not set"),
        (lambda comm: comm.alltoall_object({0: 1, 1: 2, 2: 3}), TypeError, "objs must be .* not dict"),
        (lambda comm: comm.allreduce_object(1, None), TypeError, "op must be one of .* or a function"),
        (lambda comm: comm.allreduce_object(1, "plus"), ValueError, "op must be one of sum, .* not 'plus'"),
        (lambda comm: comm.allreduce_object(1, 7), TypeError, "op must be .* not int"),
        (lambda comm: comm.broadcast_object(1, 3), ValueError, "root must be a rank from 0 to 2, not 3"),
        (lambda comm: comm.gather_object(1, -1), ValueError, "root must be a rank from 0 to 2, not -1"),
    ],
)
def test_bad_arguments_break_nothing(world: World, call: Any, error: type[Exception], text: str) -> None:
    def program(comm: Comm, call: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            call(comm)
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program, call, error, text)


def test_received_arrays_are_the_receivers_own(world: World) -> None:
    def program(comm: Comm) -> list[float]:
        got: Array = comm.broadcast_object(np.zeros(1000) if comm.rank == 0 else None)
        got += comm.rank
        comm.barrier()
        return [float(got[0]), float(got[-1])]

    assert world.run(program) == [[rank, rank] for rank in range(world.size)]


def test_an_op_sees_the_objects_in_rank_order_on_every_rank(world: World) -> None:
    def program(comm: Comm) -> str:
        text: str = comm.allreduce_object(str(comm.rank), lambda a, b: f"({a}{b})")
        return text

    assert world.run(program) == ["((01)2)"] * 3


def test_raised_is_what_a_program_raises(world: World) -> None:
    """The tests' own machinery: else everything above could pass by doing nothing."""

    def program(comm: Comm) -> None:
        assert comm.rank != 1, "as it should"

    ends = world.outcomes(program)
    assert [type(end) for end in ends] == [type(None), Raised, type(None)]
    assert isinstance(ends[1].error, AssertionError)
    assert issubclass(commops.CommError, Exception)


def test_without_pickle_there_is_no_way_to_it(fresh: Callable[..., World]) -> None:
    def program(comm: Comm) -> None:
        comm.allow_pickle = False
        child = comm.dup()
        calls: list[Callable[[Comm], object]] = [
            lambda c: c.send_object(1, 0),
            lambda c: c.isend_object(1, 0),
            lambda c: c.recv_object(),
            lambda c: c.irecv_object(),
            lambda c: c.broadcast_object(1),
            lambda c: c.ibroadcast_object(1),
            lambda c: c.scatter_object([1] * c.size),
            lambda c: c.iscatter_object([1] * c.size),
            lambda c: c.gather_object(1),
            lambda c: c.igather_object(1),
            lambda c: c.allgather_object(1),
            lambda c: c.iallgather_object(1),
            lambda c: c.alltoall_object([1] * c.size),
            lambda c: c.ialltoall_object([1] * c.size),
            lambda c: c.reduce_object(1),
            lambda c: c.ireduce_object(1),
            lambda c: c.allreduce_object(1),
            lambda c: c.iallreduce_object(1),
        ]
        named = {name for name in dir(comm) if name.endswith("_object") and not name.startswith("_")}
        assert len(calls) == len(named)  # a new call on objects is to be tried here too
        for group in (comm, child, child.shrink()):
            assert not group.allow_pickle
            for call in calls:
                with pytest.raises(TypeError, match="allow_pickle is False"):
                    call(group)
            assert (group.allreduce(np.ones(3)) == group.size).all()
        with pytest.raises(TypeError, match="must be True or False"):
            comm.allow_pickle = "no"  # type: ignore[assignment]
        if comm.rank == 0:
            comm.allow_pickle = True
            comm.send_object({"a": 1}, 1)
        elif comm.rank == 1:
            with pytest.raises(TypeError):
                comm.recv(source=0)  # an object is not taken for an array
            comm.allow_pickle = True
            assert comm.recv_object(0) == {"a": 1}

    fresh(Layout("aaa", "shm", (("COMMOPS_ALLOW_PICKLE", "0"),), name="no-pickle")).run(program)
