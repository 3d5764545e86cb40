"""One client's connection to the server of a socket store."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.endpoint import Endpoint
from commops.rendezvous.tcp_protocol import Message, ProtocolError, encode, parse

__all__ = ["Connection", "connect"]

REPLY_GRACE = 1.0
"""Seconds past a call's deadline that the server has for saying which keys are missing."""

_CHUNK = 256 << 10
_SHORTEST = 0.001  # settimeout(0) would mean a socket that does not block


class Connection:
    """A connection on which both sides have proved the token. Used by one thread at a time."""

    def __init__(self, sock: socket.socket, url: str) -> None:
        self._sock = sock
        self._url = url

    def exchange(self, request: Message, deadline: Deadline) -> Message:
        """Send a request and return the reply.

        After any exception the connection is of no further use: close it.

        Raises
        ------
        RendezvousError
            If the server is gone, or has said nothing by `REPLY_GRACE` after the deadline.
        """
        frame = encode(request)
        try:
            self._sock.settimeout(deadline.remaining() + REPLY_GRACE)
            self._sock.sendall(frame)
            inbox = bytearray()
            while True:
                inbox += self._receive(_CHUNK, deadline.remaining() + REPLY_GRACE)
                parsed = parse(inbox)
                if parsed is not None:
                    break
        except TimeoutError as error:
            raise RendezvousError(
                f"the store at {self._url} did not answer within {deadline.waited():.3g} s "
                f"(time-out {deadline.timeout:g} s)"
            ) from error
        except OSError as error:
            raise RendezvousError(
                f"the store at {self._url} is gone ({error}): the process that served it (rank 0 or the "
                "launcher) has ended or closed it"
            ) from error
        reply, consumed = parsed
        if consumed != len(inbox):
            raise ProtocolError(f"the store at {self._url} sent more than one reply")
        return reply

    def prove(self, token: bytes | None, deadline: Deadline) -> None:
        """Do the client's part of the handshake.

        Raises
        ------
        AuthenticationError
            If one side does not prove the token to the other.
        ProtocolError
            If what answers is no store.
        OSError
            If the connection ends unexplained, or says nothing until the deadline.
        """
        greeting = self._exactly(handshake.GREETING_SIZE, deadline)
        try:
            server_nonce = handshake.read_greeting(token, greeting)
        except AuthenticationError:
            with contextlib.suppress(OSError):
                self._sock.sendall(handshake.decline(token))
            raise
        nonce = handshake.new_nonce()
        self._sock.sendall(handshake.respond(token, server_nonce, nonce))
        last = self._exactly(handshake.GREETING_SIZE, deadline)
        handshake.read_verdict(token, server_nonce, nonce, last)

    def interrupt(self) -> None:
        """Make a call that another thread is in end with an error."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Twice is fine."""
        self._sock.close()

    def _exactly(self, size: int, deadline: Deadline) -> bytes:
        data = b""
        while len(data) < size:
            data += self._receive(size - len(data), deadline.remaining())
        return data

    def _receive(self, most: int, timeout: float) -> bytes:
        self._sock.settimeout(max(timeout, _SHORTEST))
        data = self._sock.recv(most)
        if not data:
            raise ConnectionResetError("connection closed")
        return data


def connect(
    endpoint: Endpoint, token: bytes | None, deadline: Deadline, check: Callable[[], None] = lambda: None
) -> Connection:
    """Return a proved connection to the store at `endpoint`, trying until the deadline: it may start later.

    Parameters
    ----------
    endpoint : Endpoint
        The store's address.
    token : bytes or None
        The job's secret.
    deadline : Deadline
        When to give up.
    check : callable
        Called before each attempt; an exception that it raises ends the attempts.

    Raises
    ------
    AuthenticationError
        As soon as one side fails to prove the token, or belongs to another user.
    RendezvousError
        If no store has answered by the deadline, or something else than a store does.
    """
    cause: OSError | None = None
    for _ in deadline.polls(longest=0.1):
        check()
        try:
            sock = endpoint.connect(deadline)
        except OSError as error:
            cause = error.with_traceback(None)  # else it and this frame, with its callers, hold each other
            continue
        connection = Connection(sock, endpoint.url)
        try:
            if not endpoint.trusts(sock):
                raise AuthenticationError("it belongs to another user than this process runs as")
            connection.prove(token, deadline)
            return connection
        except OSError as error:
            connection.close()
            cause = error.with_traceback(None)
        except AuthenticationError as error:
            connection.close()
            raise AuthenticationError(f"{endpoint.url}: {error}") from error
        except ProtocolError as error:
            connection.close()
            raise RendezvousError(f"{endpoint.url}: {error}") from error
        except BaseException:
            connection.close()
            raise
    raise RendezvousError(
        f"no store answered at {endpoint.url} within {deadline.timeout:g} s (last attempt: {cause}); start "
        "the process that serves it (rank 0 or the launcher), or check the address, the port and any "
        "firewall between"
    ) from cause
