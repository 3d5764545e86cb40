"""A rank's engine, made of what it shares with the ranks of its host and where it listens for the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from commops._core import engine as core
from commops.rendezvous import handover
from commops.rendezvous.card import Card
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.token import Token

__all__ = ["doorbell", "make_engine", "share"]


def doorbell() -> int:
    """Return a new descriptor that ends this process's sleep when it is written to."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def share(
    rank: int,
    neighbours: Sequence[int],
    cards: Sequence[Card],
    window: Any,
    key: Token,
    local: socket.socket | None,
    deadline: Deadline,
    check: Callable[[], None],
) -> list[handover.Descriptors]:
    """Return (window, doorbell, end of process) of every rank of this host, as the engine takes them."""
    bell = doorbell()
    if local is None or len(neighbours) == 1:
        return [(-1, bell, -1)]
    try:
        end = os.pidfd_open(os.getpid())
        try:
            own, place = (window.fd, bell, end), neighbours.index(rank)
            if place == 0:
                table = handover.collect(local, own, neighbours, key, deadline, check)
            else:
                table = handover.fetch(cards[neighbours[0]].unix, own, place, neighbours, key, deadline)
                handover.close_all([table[place]])
        finally:
            os.close(end)
    except BaseException:
        os.close(bell)
        raise
    table[place] = (-1, bell, -1)
    return table


def make_engine(
    rank: int,
    hosts: list[int],
    window: Any,
    table: list[handover.Descriptors],
    *,
    share: bool,
    job: bytes,
    token: bytes,
    tunables: dict[str, int],
    host_names: list[str],
    generation: int = 0,
    tls: bytes | None = None,
    listeners: Sequence[socket.socket] = (),
    places: Sequence[str] = (),
) -> Any:
    """Make an engine, which takes the descriptors in `table` and the listening sockets."""
    try:
        return core.Engine(
            rank,
            len(hosts),
            hosts,
            window,
            table,
            share=share,
            listeners=[listener.detach() for listener in listeners],
            addresses=list(places),
            job=job,
            token=token,
            tunables=tunables,
            host_names=host_names,
            generation=generation & 0xFFFFFFFF,
            tls=tls,
            exact=bool(os.environ.get("COMMOPS_TRACE")),
        )
    except BaseException:
        for _, bell, end in table:  # the windows' it has closed when it had mapped them
            os.close(bell)
            if end >= 0:
                os.close(end)
        raise
