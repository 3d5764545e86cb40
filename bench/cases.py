"""Cases beside those of `commops.cli.measure`: objects that hold arrays, and windows of messages.

Loaded by `rank.py` in the environment of each contender.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import Case

__all__ = ["MESSAGES", "OBJECTS"]

_Cases = dict[str, Callable[[Any, int, Any], Case]]

WINDOW = 64  # messages under way together


def _stand_by() -> None:
    pass


def _object(comm: Any, count: int, new: Any) -> tuple[dict[str, Any], Any]:
    weights = new(count)
    return {"weights": weights, "step": 3}, weights


def _broadcast(comm: Any, count: int, new: Any) -> Case:
    if comm.rank != 0:
        return Case(lambda: comm.broadcast_object(None))
    obj, weights = _object(comm, count, new)
    return Case(lambda: comm.broadcast_object(obj), weights)


def _gather(comm: Any, count: int, new: Any) -> Case:
    obj, weights = _object(comm, count, new)
    return Case(lambda: comm.gather_object(obj), weights)


def _allgather(comm: Any, count: int, new: Any) -> Case:
    obj, weights = _object(comm, count, new)
    return Case(lambda: comm.allgather_object(obj), weights)


def _there_and_back(comm: Any, count: int, new: Any) -> Case:
    if comm.rank > 1:
        return Case(_stand_by)
    obj, weights = _object(comm, count, new)

    def first() -> None:
        comm.send_object(obj, 1)
        comm.recv_object(1)

    def second() -> None:
        comm.send_object(comm.recv_object(0), 0)

    return Case(first, weights) if comm.rank == 0 else Case(second)


OBJECTS: _Cases = {
    "broadcast_object": _broadcast,
    "gather_object": _gather,
    "allgather_object": _allgather,
    "pingpong_object": _there_and_back,
}


def _window(comm: Any, count: int, new: Any) -> Case:
    """Time `WINDOW` messages from rank 0 to rank 1 and a short one back, as the OSU benchmarks do.

    The answer keeps the sender from running ahead, so that no contender piles up what nobody asked for yet.
    """
    if comm.rank > 1:
        return Case(_stand_by)
    whole, answer = new(count * WINDOW), new(1)
    rows = list(whole.reshape(WINDOW, count))
    wait_all = getattr(comm, "wait_all", _wait_all)

    def first() -> None:
        wait_all([comm.isend(row, 1) for row in rows])
        comm.recv(answer, 1)

    def second() -> None:
        wait_all([comm.irecv(row, 0) for row in rows])
        comm.send(answer, 0)

    return Case(first, whole) if comm.rank == 0 else Case(second)


def _wait_all(works: list[Any]) -> None:
    for work in works:
        work.wait()


MESSAGES: _Cases = {"messages": _window}
