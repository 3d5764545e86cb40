"""How the ranks of one host hand each other the descriptors by which they share memory.

Each rank has three: its window (a memfd), its doorbell (an eventfd) and one by which the others learn of its end
(a pidfd). The rank with the lowest number on the host collects them over an abstract Unix socket and gives
everybody all of them. Descriptors go only to a peer that runs as the same user and has proven the job's token.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence

from commops.errors import AuthenticationError, RendezvousError
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

__all__ = ["Descriptors", "collect", "fetch", "open_socket"]

Descriptors = tuple[int, int, int]
"""Window, doorbell, end of the process."""

_BATCH = 80  # ranks whose descriptors go in one message: the kernel takes 253 descriptors
_ORDER = struct.Struct("!I")
_STRANGER_TIME = 5.0  # seconds that a connection has to prove itself; others wait meanwhile


def open_socket(name: str) -> socket.socket:
    """Listen under a name of the abstract namespace, which vanishes with the socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"\0{name}")
    listener.listen(1024)
    return listener


def collect(
    listener: socket.socket, own: Descriptors, order: int, size: int, token: bytes, deadline: float
) -> list[Descriptors]:
    """Be the rank that collects: take everybody's descriptors, and give everybody all of them.

    Parameters
    ----------
    listener : socket
        Of `open_socket`.
    own : Descriptors
    order, size : int
        Our place among the ranks of this host, and how many they are.
    token : bytes
    deadline : float
        On the clock of `time.monotonic`.

    Returns
    -------
    list of Descriptors
        In rank order; ours at `order` as it was given.
    """
    table: list[Descriptors | None] = [None] * size
    table[order] = own
    peers: list[socket.socket] = []
    try:
        while None in table:
            listener.settimeout(_remaining(deadline))
            try:
                peer, _ = listener.accept()
            except TimeoutError as error:
                missing = [i for i, entry in enumerate(table) if entry is None]
                raise RendezvousError(f"local ranks {missing} did not hand over their memory in time") from error
            peer.settimeout(min(_remaining(deadline), _STRANGER_TIME))
            try:
                _admit(peer, token)
                place, descriptors = _receive(peer, 1)
            except (OSError, RendezvousError):
                peer.close()  # a stranger, or a rank that died: its absence shows at the deadline
                continue
            if place >= size or table[place] is not None:
                peer.close()
                continue
            table[place] = descriptors[0]
            peers.append(peer)
        full = [entry for entry in table if entry is not None]
        for peer in peers:
            peer.settimeout(_remaining(deadline))
            for start in range(0, size, _BATCH):
                _send(peer, start, full[start : start + _BATCH])
        return full
    except BaseException:
        for entry in table:
            if entry is not None and entry is not own:
                _close(entry)
        raise
    finally:
        for peer in peers:
            peer.close()


def fetch(name: str, own: Descriptors, order: int, size: int, token: bytes, deadline: float) -> list[Descriptors]:
    """Be one of the others: hand over our descriptors and return everybody's, ours as a new copy."""
    table: list[Descriptors] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_remaining(deadline))
        try:
            peer.connect(f"\0{name}")
            _introduce(peer, token)
            _send(peer, order, [own])
            while len(table) < size:
                start, descriptors = _receive(peer, _BATCH)
                table += descriptors
                if start + len(descriptors) != len(table):
                    raise RendezvousError("the descriptors of this host's ranks came out of order")
        except BaseException as error:
            for entry in table:
                _close(entry)
            if isinstance(error, OSError):
                raise RendezvousError(f"cannot share memory with the other ranks of this host: {error}") from error
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


def _introduce(peer: socket.socket, token: bytes) -> None:
    if not is_own_user(peer):
        raise AuthenticationError("a process of another user offers its memory under this job's name")
    greeting = read_greeting(token, _exactly(peer, GREETING_SIZE))
    nonce = new_nonce()
    peer.sendall(respond(token, greeting, nonce))
    read_verdict(token, greeting.nonce, nonce, _exactly(peer, GREETING_SIZE))


def _send(peer: socket.socket, order: int, ranks: Sequence[Descriptors]) -> None:
    socket.send_fds(peer, [_ORDER.pack(order)], [fd for entry in ranks for fd in entry])


def _receive(peer: socket.socket, most: int) -> tuple[int, list[Descriptors]]:
    data, fds, flags, _ = socket.recv_fds(peer, _ORDER.size, 3 * most, socket.MSG_CMSG_CLOEXEC)
    if len(data) != _ORDER.size or not fds or len(fds) % 3 or flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise RendezvousError("a peer broke off while it handed over its memory")
    (order,) = _ORDER.unpack(data)
    return order, [(fds[i], fds[i + 1], fds[i + 2]) for i in range(0, len(fds), 3)]


def _exactly(peer: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = peer.recv(n - len(data))
        if not part:
            raise RendezvousError("a peer broke off before it had proven itself")
        data += part
    return data


def _close(entry: Descriptors) -> None:
    for fd in entry:
        os.close(fd)


def _remaining(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
