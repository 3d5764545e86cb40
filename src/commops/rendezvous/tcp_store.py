"""Stores that one process serves over sockets: TCP between hosts, a Unix socket within one."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence

from commops.errors import RendezvousError
from commops.rendezvous.credentials import Credentials
from commops.rendezvous.deadline import DEFAULT_TIMEOUT, Deadline
from commops.rendezvous.endpoint import Endpoint, TCPEndpoint, UnixEndpoint
from commops.rendezvous.store import Store, decode_key, encode_key
from commops.rendezvous.tcp_client import Connection, connect
from commops.rendezvous.tcp_protocol import MAX_KEYS, Kind, Message, ProtocolError
from commops.rendezvous.tcp_server import StoreServer

__all__ = ["SocketStore", "TCPStore", "UnixStore"]


class SocketStore(Store):
    """What `TCPStore` and `UnixStore` share; the endpoint makes the difference.

    Calls go to the server, which answers a waiting one when its keys appear. Each call has a connection to
    itself while it lasts, so one thread may wait while another sets. After a fork the child makes new
    connections, and the server stays with the parent.

    Parameters
    ----------
    endpoint : Endpoint
        The store's address.
    is_server : bool
        Whether this process serves the store (one must).
    token : bytes, optional
        The job's secret; both sides prove it before anything else is read.
    timeout : float
        Default time-out of each call, and the time that the server has to appear, in seconds.
    tls : Credentials, optional
        With them, both sides speak TLS 1.3 and prove their certificates before the token.

    Raises
    ------
    AuthenticationError
        If client and server have different tokens, or one has none, or they belong to different users; if a
        certificate is not accepted, or one side has TLS and the other has not.
    RendezvousError
        If the address is taken (server), or no store has answered there within the time-out (client).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        is_server: bool,
        token: bytes | None,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Credentials | None = None,
    ) -> None:
        super().__init__(timeout=timeout)
        if token is not None and not token:
            raise ValueError("token is empty; give a secret, or None for no token")
        self._token = token
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        context = tls.context(server=True) if tls and is_server else None
        self._server = StoreServer(endpoint, token, context) if is_server else None
        self._endpoint = self._server.endpoint if self._server else endpoint
        self._tls = tls.context(server=False) if tls else None
        if not is_server:
            self._idle.append(connect(endpoint, token, Deadline(timeout), tls=self._tls))
        _stores.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def address(self) -> str:
        """Where the store is, as `open_store` takes it; with the real port where 0 was asked for."""
        return self._endpoint.url

    def _set(self, key: str, value: bytes, deadline: Deadline) -> None:
        self._number(Message(Kind.SET, 0, (encode_key(key), value)), deadline)

    def _get(self, key: str, deadline: Deadline) -> bytes | None:
        reply = self._exchange(Message(Kind.GET, _nanoseconds(deadline), (encode_key(key),)), deadline)
        if reply.kind is Kind.MISSING:
            return None
        if reply.kind is Kind.VALUE and reply.fields:
            return reply.fields[0]
        raise self._nonsense(reply)

    def _add(self, key: str, amount: int, deadline: Deadline) -> int:
        return self._number(Message(Kind.ADD, amount, (encode_key(key),)), deadline)

    def _wait(self, keys: tuple[str, ...], deadline: Deadline) -> Sequence[str]:
        self._check_number("wait", keys)
        names = tuple(map(encode_key, keys))
        reply = self._exchange(Message(Kind.WAIT, _nanoseconds(deadline), names), deadline)
        if reply.kind is Kind.DONE:
            return ()
        if reply.kind is Kind.MISSING and reply.fields and set(reply.fields) <= set(names):
            return [decode_key(name) for name in reply.fields]
        raise self._nonsense(reply)

    def _delete(self, key: str, deadline: Deadline) -> bool:
        return bool(self._discard((key,), deadline))

    def _discard(self, keys: tuple[str, ...], deadline: Deadline) -> int:
        self._check_number("discard", keys)
        return self._number(Message(Kind.DELETE, 0, tuple(map(encode_key, keys))), deadline)

    def _count(self, prefix: str, deadline: Deadline) -> int:
        return self._number(Message(Kind.COUNT, 0, (encode_key(prefix),)), deadline)

    def _compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline
    ) -> bytes | None:
        fields = (encode_key(key), value) if expected is None else (encode_key(key), value, expected)
        reply = self._exchange(Message(Kind.COMPARE_AND_SET, 0, fields), deadline)
        if reply.kind is not Kind.VALUE:
            raise self._nonsense(reply)
        return reply.fields[0] if reply.fields else None

    def _bequeath(self, key: str, value: bytes | None, deadline: Deadline) -> bool:
        fields = (encode_key(key),) if value is None else (encode_key(key), value)
        self._number(Message(Kind.BEQUEATH, 0, fields), deadline)
        return True

    def _refused(self, deadline: Deadline) -> str:
        reply = self._exchange(Message(Kind.STRANGERS), deadline)
        if reply.kind is not Kind.VALUE or not reply.fields:
            raise self._nonsense(reply)
        return reply.fields[0].decode("utf-8", "replace")

    def _close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.interrupt()
        for connection in idle:
            connection.close()
        if self._server is not None:
            self._server.close()

    # ---- requests and connections

    def _number(self, request: Message, deadline: Deadline) -> int:
        reply = self._exchange(request, deadline)
        if reply.kind is not Kind.DONE:
            raise self._nonsense(reply)
        return reply.number

    def _exchange(self, request: Message, deadline: Deadline) -> Message:
        with self._connection(deadline) as connection:
            reply = connection.exchange(request, deadline)
        if reply.kind is Kind.REFUSED:
            raise ValueError(reply.fields[0].decode("utf-8", "replace"))
        return reply

    def _check_number(self, call: str, keys: Sequence[str]) -> None:
        if len(keys) > MAX_KEYS:
            raise ValueError(
                f"{call}: a {type(self).__name__} takes at most {MAX_KEYS} keys, not {len(keys)}"
            )

    def _nonsense(self, reply: Message) -> ProtocolError:
        return ProtocolError(f"{self!r} answered {reply.kind.name}, which does not go with the request")

    @contextlib.contextmanager
    def _connection(self, deadline: Deadline) -> Iterator[Connection]:
        """Lend an idle connection, or a new one; take it back unless an exception left it in mid-exchange."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = connect(self._endpoint, self._token, deadline, self._check_open, tls=self._tls)
        with self._lock:
            self._busy.add(connection)
        try:
            self._check_open()  # a close() from here on finds the connection among the busy
            yield connection
        except BaseException as error:
            self._end(connection)
            if self._closed and isinstance(error, RendezvousError):
                self._check_open()
            raise
        with self._lock:
            self._busy.discard(connection)
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _end(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def forget(self) -> None:
        """In a forked child: leave the connections to the parent, whose lock may even be held."""
        self._lock = threading.Lock()
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle = []
        self._busy = set()
        self._server = None


class TCPStore(SocketStore):
    """A store that one process serves over TCP, on IPv4 or IPv6.

    Without a token it serves loopback addresses only. The handshake shows who is there; without TLS, what is
    stored travels in clear, so keep secrets out of it.

    Parameters
    ----------
    host : str
        Name or address. The server binds to it: ``127.0.0.1`` for this machine alone, ``0.0.0.0`` or
        ``::`` for every interface.
    port : int
        Port; 0 lets the server take a free one, which `port` and `address` then tell.
    is_server, token, timeout, tls
        As `SocketStore` has them.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        is_server: bool,
        token: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Credentials | None = None,
    ) -> None:
        if port == 0 and not is_server:
            raise ValueError("port 0 lets a server choose; a client needs the port that the server got")
        super().__init__(TCPEndpoint(host, port), is_server=is_server, token=token, timeout=timeout, tls=tls)

    @property
    def _tcp(self) -> TCPEndpoint:
        assert isinstance(self._endpoint, TCPEndpoint)
        return self._endpoint

    @property
    def host(self) -> str:
        """The host as it was given."""
        return self._tcp.host

    @property
    def port(self) -> int:
        """The port; the real one where 0 was asked for."""
        return self._tcp.port


class UnixStore(SocketStore):
    """A store that one process serves to the others on its host, under a name that ends with it.

    The kernel vouches that both ends belong to the same user (or root), so ranks that were started together
    but share no token, as under Slurm or mpirun, can meet.

    Parameters
    ----------
    name : str
        Any name of at most 98 bytes, one per job; abstract, so no file has it.
    is_server, token, timeout
        As `SocketStore` has them.
    """

    def __init__(
        self, name: str, *, is_server: bool, token: bytes | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        super().__init__(UnixEndpoint(name), is_server=is_server, token=token, timeout=timeout)
        self.name = name


def _nanoseconds(deadline: Deadline) -> int:
    return int(deadline.remaining() * 1e9)


_stores: weakref.WeakSet[SocketStore] = weakref.WeakSet()


def _forget_stores() -> None:
    for store in list(_stores):
        store.forget()


os.register_at_fork(after_in_child=_forget_stores)
