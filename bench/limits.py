"""What the machine gives: copies by all ranks at once, and sockets that nothing stands between.

Both are tables of cases as `commops.cli.measure` has them, under the names of the operations that they are
limits of: they move the least bytes that the operation must move, and nothing else. Stores around the caches
can be faster than such a copy. commops starts the ranks, and is the barrier in front of each call.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Case

__all__ = ["memcpy", "sockets"]

_PIECE = 256 << 10  # at once to or from a socket; whole arrays leave the caches, and may take twice as long

_Cases = dict[str, Callable[[Any, int, Any], Case]]


def memcpy(comm: Any) -> _Cases:
    """Every rank copies as many bytes as the operation's result has, all of them at once."""

    def copy(blocks: int) -> Callable[[Any, int, Any], Case]:
        def case(comm: Any, count: int, new: Any) -> Case:
            x, out = new(count * blocks), new(count * blocks)
            return Case(lambda: np.copyto(out, x), x)

        return case

    one = ("allreduce", "reduce_scatter", "broadcast", "scatter")
    return {op: copy(1) for op in one} | {op: copy(comm.size) for op in ("allgather", "alltoall")}


class _Pair:
    """A connection between ranks 0 and 1 over loopback, looked at without a pause.

    Python takes about a microsecond of a small exchange: a C program would be that much faster.
    """

    def __init__(self, comm: Any) -> None:
        if comm.size != 2:
            raise ValueError("raw sockets join 2 ranks")
        if comm.rank == 0:
            with socket.create_server(("127.0.0.1", 0)) as server:
                comm.broadcast_object(server.getsockname())
                self._socket = server.accept()[0]
        else:
            self._socket = socket.create_connection(comm.broadcast_object())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def exchange(self, out: memoryview, into: memoryview) -> None:
        """Send all of one buffer and fill the other, both at once."""
        send, receive = self._socket.send, self._socket.recv_into
        sent = received = 0
        while sent < len(out) or received < len(into):
            # contextlib.suppress would take longer than the calls.
            if sent < len(out):
                try:  # noqa: SIM105
                    sent += send(out[sent : sent + _PIECE])
                except BlockingIOError:
                    pass
            if received < len(into):
                try:
                    count = receive(into[received : received + _PIECE])
                except BlockingIOError:
                    continue
                if not count:
                    raise ConnectionError("the other rank has ended")
                received += count


_NOTHING = memoryview(b"")


def sockets(comm: Any) -> _Cases:
    """Rank 0 and rank 1 send each other what the operation must bring from one to the other."""
    pair = _Pair(comm)

    def barrier(comm: Any, count: int, new: Any) -> Case:
        out, into = memoryview(b"\0"), memoryview(bytearray(1))
        return Case(lambda: pair.exchange(out, into))

    def both_ways(comm: Any, count: int, new: Any) -> Case:
        x, out, into = _arrays(count, new)
        return Case(lambda: pair.exchange(out, into), x)

    def one_way(comm: Any, count: int, new: Any) -> Case:
        x, out, into = _arrays(count, new)
        if comm.rank == 0:
            return Case(lambda: pair.exchange(out, _NOTHING), x)
        return Case(lambda: pair.exchange(_NOTHING, into))

    def there_and_back(comm: Any, count: int, new: Any) -> Case:
        x, out, into = _arrays(count, new)

        def first() -> None:
            pair.exchange(out, _NOTHING)
            pair.exchange(_NOTHING, into)

        def second() -> None:
            pair.exchange(_NOTHING, into)
            pair.exchange(into, _NOTHING)

        return Case(first, x) if comm.rank == 0 else Case(second)

    both = ("allreduce", "allgather", "reduce_scatter", "alltoall")
    return {
        "barrier": barrier,
        "pingpong": there_and_back,
        **dict.fromkeys(both, both_ways),
        **dict.fromkeys(("broadcast", "scatter"), one_way),
    }


def _arrays(count: int, new: Any) -> tuple[Any, memoryview, memoryview]:
    x, out = new(count), new(count)
    return x, memoryview(x).cast("B"), memoryview(out).cast("B")
