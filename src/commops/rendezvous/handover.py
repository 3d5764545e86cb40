"""How the ranks of one host hand each other the descriptors by which they share memory.

Each rank has three: its window (a memfd), its doorbell (an eventfd) and one by which the others learn of its
end (a pidfd). The rank with the lowest number on the host collects them over an abstract Unix socket and
gives everybody all of them. Descriptors go only to a peer that runs as the same user and has proven the job's
token.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.descriptors import exhausted
from commops.rendezvous.endpoint import is_own_user
from commops.rendezvous.tcp_handshake import (
    GREETING_SIZE,
    RESPONSE_SIZE,
    Refusal,
    accepts_response,
    greet,
    new_nonce,
    read_greeting,
    read_verdict,
    respond,
    verdict,
)

__all__ = ["BrokenOffError", "Descriptors", "close_all", "collect", "fetch", "open_socket"]

Descriptors: TypeAlias = tuple[int, int, int]
"""Window, doorbell, end of the process."""

_BATCH = 80  # ranks whose descriptors go in one message: the kernel takes 253 descriptors
_PLACE = struct.Struct("!I")
_STRANGER_TIME = 5.0  # seconds that a connection has to prove itself; others wait meanwhile
_SHORTEST = 0.001  # settimeout(0) would mean a socket that does not block
_CROWDED_PAUSE = 0.002
_CHECK = 0.2  # seconds between looks at whether waiting still makes sense


class BrokenOffError(RendezvousError):
    """The rank that collects has gone, or given up: it, or its absence, tells why."""


def open_socket(name: str) -> socket.socket:
    """Listen under a name of the abstract namespace, which vanishes with the socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"\0{name}")
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


def close_all(table: Sequence[Descriptors | None]) -> None:
    """Close the descriptors of every rank in the table."""
    for entry in table:
        for descriptor in entry or ():
            os.close(descriptor)


def collect(
    listener: socket.socket,
    own: Descriptors,
    ranks: Sequence[int],
    token: bytes,
    deadline: Deadline,
    check: Callable[[], None] = lambda: None,
) -> list[Descriptors]:
    """Be the rank that collects: take everybody's descriptors, and give everybody all of them.

    Parameters
    ----------
    listener : socket
        Of `open_socket`. Closed if this fails.
    own : Descriptors
        Ours; they stay the caller's.
    ranks : sequence of int
        The ranks of this host; this one is the first.
    token : bytes
    deadline : Deadline
    check : callable
        Called now and then while ranks are awaited; an exception that it raises ends that.

    Returns
    -------
    list of Descriptors
        In the order of `ranks`. All but the first, which is `own`, are the caller's from now on.

    Raises
    ------
    RendezvousError
        If a rank has not come, or does not take what it is given, by the deadline. The message names it.
    """
    table: list[Descriptors | None] = [own] + [None] * (len(ranks) - 1)
    peers: dict[int, socket.socket] = {}
    try:
        while None in table:
            peer = _accept(listener, table, ranks, deadline, check)
            arrived = _take(peer, table, token, deadline)
            if arrived is None:
                peer.close()
            else:
                peers[arrived] = peer
        full = [entry for entry in table if entry is not None]
        _give(peers, full, ranks, deadline)
        return full
    except BaseException:
        close_all(table[1:])
        listener.close()  # those who wait there are to hear of it at once
        raise
    finally:
        for peer in peers.values():
            peer.close()


def _accept(
    listener: socket.socket,
    table: Sequence[Descriptors | None],
    ranks: Sequence[int],
    deadline: Deadline,
    check: Callable[[], None],
) -> socket.socket:
    while True:
        listener.settimeout(min(_left(deadline), _CHECK))
        try:
            return listener.accept()[0]
        except TimeoutError:
            check()
            if deadline.remaining() == 0.0:
                break
    missing = [str(rank) for rank, entry in zip(ranks, table, strict=True) if entry is None]
    raise RendezvousError(
        f"rank {', '.join(missing)} came but did not share its memory in time; has it ended?"
    )


def _take(
    peer: socket.socket, table: list[Descriptors | None], token: bytes, deadline: Deadline
) -> int | None:
    """Put a peer's descriptors into the table and return its place; None for one that does not belong."""
    peer.settimeout(min(_left(deadline), _STRANGER_TIME))
    try:
        _admit(peer, token)
        place, entries = _receive(peer, 1)
    except (OSError, RendezvousError) as error:
        if exhausted(error):
            peer.close()
            raise
        return None  # a stranger, or a rank that died: its absence shows at the deadline
    if place >= len(table) or table[place] is not None:
        close_all(entries)
        return None
    table[place] = entries[0]
    return place


def _give(
    peers: Mapping[int, socket.socket], table: Sequence[Descriptors], ranks: Sequence[int], deadline: Deadline
) -> None:
    """Send all descriptors to all peers, also after one of them has failed."""
    failures: list[str] = []
    for place, peer in peers.items():
        try:
            for start in range(0, len(table), _BATCH):
                _send(peer, start, table[start : start + _BATCH], deadline)
        except OSError as error:
            failures.append(f"rank {ranks[place]} ({error})")
    if failures:
        raise RendezvousError(f"gone, or not taking what is handed to them: {', '.join(failures)}")


def fetch(
    name: str, own: Descriptors, place: int, ranks: Sequence[int], token: bytes, deadline: Deadline
) -> list[Descriptors]:
    """Be one of the others: hand over our descriptors, and return everybody's.

    Parameters
    ----------
    name : str
        At which the first of `ranks` collects.
    own : Descriptors
        Ours; they stay the caller's.
    place : int
        Ours among `ranks`.
    ranks : sequence of int
        The ranks of this host.
    token : bytes
    deadline : Deadline

    Returns
    -------
    list of Descriptors
        In the order of `ranks`, ours as new copies; all are the caller's from now on.
    """
    table: list[Descriptors] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_left(deadline))
            peer.connect(f"\0{name}")
            _introduce(peer, token, deadline)
            _send(peer, place, [own], deadline)
            while len(table) < len(ranks):
                peer.settimeout(_left(deadline))
                start, entries = _receive(peer, _BATCH)
                in_order = start == len(table) and len(entries) <= len(ranks) - start
                table += entries
                if not in_order:
                    raise RendezvousError("the descriptors of this host's ranks came out of order")
    except BaseException as error:
        close_all(table)
        if isinstance(error, OSError) and not exhausted(error):
            raise BrokenOffError(
                f"rank {ranks[0]} of this host is gone, or did not share its memory in time: {error}"
            ) from error
        raise
    return table


def _admit(peer: socket.socket, token: bytes) -> None:
    """Let the peer prove itself, and prove ourselves."""
    nonce = new_nonce()
    trusted = is_own_user(peer)
    peer.sendall(greet(token, nonce, Refusal.NONE if trusted else Refusal.USER))
    if not trusted:
        raise AuthenticationError("a process of another user asks for this job's memory")
    response = _exactly(peer, RESPONSE_SIZE)
    if not accepts_response(token, nonce, response):
        raise AuthenticationError("a process without this job's token asks for its memory")
    peer.sendall(verdict(token, nonce, response))


def _introduce(peer: socket.socket, token: bytes, deadline: Deadline) -> None:
    if not is_own_user(peer):
        raise AuthenticationError("a process of another user offers its memory under this job's name")
    server_nonce = read_greeting(token, _exactly(peer, GREETING_SIZE))
    nonce = new_nonce()
    peer.sendall(respond(token, server_nonce, nonce))
    peer.settimeout(_left(deadline))
    read_verdict(token, server_nonce, nonce, _exactly(peer, GREETING_SIZE))


def _send(peer: socket.socket, place: int, entries: Sequence[Descriptors], deadline: Deadline) -> None:
    descriptors = [descriptor for entry in entries for descriptor in entry]
    while True:
        peer.settimeout(_left(deadline))
        try:
            socket.send_fds(peer, [_PLACE.pack(place)], descriptors)
            return
        except OSError as error:
            # A user has only so many descriptors on their way at a time; those that peers take in make room.
            if error.errno != errno.ETOOMANYREFS or not deadline.remaining():
                raise
            time.sleep(_CROWDED_PAUSE)


def _receive(peer: socket.socket, most: int) -> tuple[int, list[Descriptors]]:
    data, fds, flags, _ = socket.recv_fds(peer, _PLACE.size, 3 * most, socket.MSG_CMSG_CLOEXEC)
    if len(data) != _PLACE.size or not fds or len(fds) % 3 or flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        if flags & socket.MSG_CTRUNC:  # this process has no room for them
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise ConnectionError("it broke off")
    (place,) = _PLACE.unpack(data)
    return place, [(fds[i], fds[i + 1], fds[i + 2]) for i in range(0, len(fds), 3)]


def _exactly(peer: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = peer.recv(n - len(data))
        if not part:
            raise ConnectionError("it broke off before it had proven itself")
        data += part
    return data


def _left(deadline: Deadline) -> float:
    return max(deadline.remaining(), _SHORTEST)
