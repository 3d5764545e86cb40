"""One client's connection to the server of a socket store."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.endpoint import Endpoint
from commops.rendezvous.tcp_protocol import Message, ProtocolError, encode, parse

if TYPE_CHECKING:
    import ssl

__all__ = ["Connection", "connect"]

REPLY_GRACE = 1.0
"""Seconds past a call's deadline that the server has for saying which keys are missing."""

_CHUNK = 256 << 10
_SHORTEST = 0.001  # settimeout(0) would mean a socket that does not block


class Connection:
    """A connection on which both sides have proved the token. Used by one thread at a time."""

    def __init__(self, sock: socket.socket, url: str, *, secure: bool = False) -> None:
        self._sock = sock
        self._url = url
        self._secure = secure

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
        if self._secure:
            from commops.rendezvous.tls_socket import bound

            token = bound(token, self._sock)
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
            # Not that of a socket with TLS, which would go on without TLS.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

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


def secure(sock: socket.socket, tls: ssl.SSLContext, deadline: Deadline) -> ssl.SSLSocket:
    """Return the socket with TLS on it, its handshake done; it takes `sock`, and closes it where that fails.

    Raises
    ------
    AuthenticationError
        If the certificate of the other end is not accepted. That ours is not is told when something is read.
    ProtocolError
        If the other end speaks no TLS.
    OSError
        If the connection ends, or the deadline passes.
    """
    import ssl

    from commops.rendezvous.tls_socket import explain, is_about_certificates

    secured = tls.wrap_socket(sock, do_handshake_on_connect=False)
    try:
        secured.settimeout(max(deadline.remaining(), _SHORTEST))
        secured.do_handshake()
        return secured
    except BaseException as error:
        secured.close()
        if isinstance(error, OSError) and is_about_certificates(error):
            raise AuthenticationError(explain(error)) from None
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            raise ProtocolError(
                "what answers there speaks no TLS, and this process does: give every rank tls= or "
                "COMMOPS_TLS_FILE, or none"
            ) from None
        raise


def refused(error: OSError) -> str | None:
    """Say why, if the other end has sent us away for our certificate, else None."""
    from commops.rendezvous.tls_socket import explain, is_about_certificates

    return explain(error) if is_about_certificates(error) else None


def connect(
    endpoint: Endpoint,
    token: bytes | None,
    deadline: Deadline,
    check: Callable[[], None] = lambda: None,
    *,
    tls: ssl.SSLContext | None = None,
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
    tls : SSLContext, optional
        For TLS.

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
        try:
            if tls:
                sock = secure(sock, tls, deadline)
            connection = Connection(sock, endpoint.url, secure=tls is not None)
            if not endpoint.trusts(sock):
                raise AuthenticationError("it belongs to another user than this process runs as")
            connection.prove(token, deadline)
            return connection
        except OSError as error:
            sock.close()
            cause = error.with_traceback(None)
            if tls and (refusal := refused(error)):
                raise AuthenticationError(f"{endpoint.url}: {refusal}") from None
        except AuthenticationError as error:
            sock.close()
            raise AuthenticationError(f"{endpoint.url}: {error}") from error
        except ProtocolError as error:
            sock.close()
            raise RendezvousError(f"{endpoint.url}: {error}") from error
        except BaseException:
            sock.close()
            raise
    raise RendezvousError(
        f"no store answered at {endpoint.url} within {deadline.timeout:g} s (last attempt: {cause}); start "
        "the process that serves it (rank 0 or the launcher), or check the address, the port and any "
        "firewall between"
    ) from cause
