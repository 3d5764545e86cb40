"""The server of a socket store: one thread, one table, and no peer that can hold it up."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING

from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.endpoint import Endpoint
from commops.rendezvous.strangers import tell_of_strangers
from commops.rendezvous.table import Table
from commops.rendezvous.tcp_protocol import Kind, Message, ProtocolError, encode, parse

if TYPE_CHECKING:
    import ssl

__all__ = ["StoreServer"]

HANDSHAKE_TIMEOUT = 5.0  # seconds that a peer has to prove itself
MAX_STRANGERS = 256  # connections that may be unproved at a time; further ones wait in the kernel's queue
STRANGER_GRACE = 0.25  # seconds after which an unproved connection gives way to one that waits in the queue

_CHUNK = 256 << 10  # read or written at a time, so that a large value does not hold up the others
_LONGEST_PAUSE = 3600.0
_MOST_NAMES = 16  # of refused strangers that are kept; the others count as one
_ACCEPT_PAUSE = 0.1  # seconds to wait before accepting again when the process has no descriptor left

# What a connection is doing. It owes us bytes in the first three, and must be silent in the other two.
_SECURING, _STRANGER, _IDLE, _WAITING, _ANSWERING = range(5)


class _Connection:
    """One client, as the server sees it."""

    # fmt: off
    __slots__ = (
        "inbox", "keys", "missing", "nonce", "outbox", "request",
        "since", "sock", "state", "timer", "token",
    )
    # fmt: on

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.state = _STRANGER
        self.since = now
        self.nonce = handshake.new_nonce()
        self.token: bytes | None = None  # what it must prove
        self.inbox = bytearray()
        self.outbox = memoryview(b"")
        self.timer = 0  # the number of the timer that counts; earlier ones in the heap are void
        self.request: Kind | None = None  # while WAITING: GET or WAIT,
        self.keys: tuple[bytes, ...] = ()  # for these keys,
        self.missing: set[bytes] = set()  # of which these did not exist when last looked at


class StoreServer:
    """Serves a table at an endpoint until closed.

    Everything happens in one daemon thread around a selector. Of a peer that has not proved the token, 76
    bytes are read at most (and before them what TLS needs, if there is TLS), and it is dropped after
    `HANDSHAKE_TIMEOUT`; whoever sends what is no frame, or
    speaks out of turn, is dropped at once. A request that must wait costs nothing while it does. What a
    client has bequeathed is stored when its connection ends, however that comes about.

    Parameters
    ----------
    endpoint : Endpoint
        Where to listen.
    token : bytes or None
        What clients must prove.
    tls : SSLContext, optional
        For TLS.

    Raises
    ------
    RendezvousError
        If the server cannot listen there, or may not without a token.
    """

    def __init__(self, endpoint: Endpoint, token: bytes | None, tls: ssl.SSLContext | None = None) -> None:
        self._token = token
        self._tls = tls
        self._listener = endpoint.listen(authenticated=token is not None)
        self._listener.setblocking(False)
        self.endpoint = endpoint.bound(self._listener)
        self._waker, self._wake_end = socket.socketpair()
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_end, selectors.EVENT_READ)
        self._accepting = False
        self._accept_after = 0.0
        self._table = Table()
        self._wills: dict[bytes, tuple[_Connection, bytes]] = {}  # whose, and what to store under the key
        self._ended = False  # whether a connection has ended since wills were last carried out
        self._refusals: dict[str, int] = {}
        self._turned_away = 0  # connections that ended unproved
        self._connections: set[_Connection] = set()
        self._strangers: dict[_Connection, None] = {}  # oldest first
        self._waiters: dict[bytes, set[_Connection]] = {}
        self._timers: list[tuple[float, int, _Connection]] = []
        self._timer_numbers = itertools.count(1)
        self._closing = False
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name=f"commops-store {self.endpoint.url}", daemon=True
        )
        _servers.add(self)
        self._thread.start()

    def close(self) -> None:
        """End the thread and every connection. Twice is fine."""
        self._closing = True
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
        thread.join()
        self._waker.close()
        self._thread = None
        tell_of_strangers(f"the store at {self.endpoint.url}", self._turned_away)

    def forget(self) -> None:
        """In a forked child, where the thread does not exist: close its descriptors and nothing else.

        Without this the child would keep the port, and connections that its parent's death should end.
        The selector's set is shared with the parent, so nothing may be unregistered.
        """
        self._thread = None
        self._closing = True
        self._waker.close()
        self._close_sockets()

    # ---- the loop

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:
            self._close_sockets()

    def _turn(self, *, waits: bool = True) -> bool:
        """Do what there is to do, having waited for it or not; say whether anyone had come."""
        self._open_or_shut_door()
        ready = self._selector.select(self._pause() if waits else 0)
        for key, events in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is not self._wake_end:
                self._serve(key.data, events)
        self._fire_timers()
        while self._ended:
            self._carry_out_wills()
        return bool(ready)

    def _close_sockets(self) -> None:
        for connection in self._connections:
            connection.sock.close()
        self._connections.clear()
        self._listener.close()
        self._wake_end.close()
        self._selector.close()

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection not in self._connections:  # dropped earlier in this round
            return
        try:
            if events & selectors.EVENT_WRITE and connection.state != _SECURING:
                self._flush(connection)
                if not connection.outbox:
                    self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
            if connection.state == _SECURING:
                self._secure(connection)
            elif events & selectors.EVENT_READ:
                self._receive(connection)
        except BlockingIOError:
            pass
        except (OSError, ProtocolError, MemoryError):
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        # Who leaves at once and has said nothing is not worth a word: a rank that has ended, or a look.
        said = bool(connection.inbox) or time.monotonic() - connection.since >= STRANGER_GRACE
        self._turned_away += connection in self._strangers and said
        self._strangers.pop(connection, None)
        self._ended = True
        self._stop_waiting(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()

    # ---- strangers

    def _open_or_shut_door(self) -> None:
        """Accept while there is room, or someone who has had long enough to make room."""
        now = time.monotonic()
        room = len(self._strangers) < MAX_STRANGERS or now >= self._oldest() + STRANGER_GRACE
        accepting = room and now >= self._accept_after
        if accepting != self._accepting:
            if accepting:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)
            self._accepting = accepting

    def _oldest(self) -> float:
        return next(iter(self._strangers)).since

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # out of descriptors or memory: the listener stays readable, so pause
            self._accept_after = time.monotonic() + _ACCEPT_PAUSE
            return
        if len(self._strangers) >= MAX_STRANGERS:
            self._drop(next(iter(self._strangers)))
        now = time.monotonic()
        if self._tls:
            sock.setblocking(False)
            try:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it is gone
                sock.close()
                return
        connection = _Connection(sock, now)
        self._connections.add(connection)
        self._strangers[connection] = None
        self._selector.register(sock, selectors.EVENT_READ, connection)
        try:
            sock.setblocking(False)
            self.endpoint.prepare(sock)
            if not self.endpoint.trusts(sock):
                self._send_away(connection, handshake.Refusal.USER)
                return
            if self._tls:
                connection.state = _SECURING
            else:
                self._greet(connection)
        except OSError:
            self._drop(connection)
            return
        self._set_timer(connection, now + HANDSHAKE_TIMEOUT)

    def _secure(self, connection: _Connection) -> None:
        """Go on with the handshake of TLS; greet the client where it is done."""
        import ssl

        assert isinstance(connection.sock, ssl.SSLSocket)
        events = selectors.EVENT_READ
        try:
            connection.sock.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            events |= selectors.EVENT_WRITE
        except OSError:
            self._note_refusal(connection)
            raise
        else:
            self._greet(connection)
        self._selector.modify(connection.sock, events, connection)

    def _greet(self, connection: _Connection) -> None:
        connection.state = _STRANGER
        connection.token = self._token
        if self._tls:
            from commops.rendezvous.tls_socket import bound

            connection.token = bound(self._token, connection.sock)
        connection.sock.send(handshake.greet(self._token, connection.nonce))

    def _authenticate(self, connection: _Connection) -> None:
        if len(connection.inbox) < handshake.RESPONSE_SIZE:
            return
        response = bytes(connection.inbox)
        if len(response) > handshake.RESPONSE_SIZE:
            raise ProtocolError("a client must wait for the verdict")
        if not handshake.accepts_response(connection.token, connection.nonce, response):
            self._note_refusal(connection)
            self._send_away(connection, handshake.Refusal.TOKEN)
            return
        connection.inbox.clear()
        connection.timer = 0
        del self._strangers[connection]
        self._answer(connection, handshake.verdict(connection.token, connection.nonce, response))

    def _note_refusal(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):  # it may be gone
            name = self.endpoint.peer(connection.sock)
            if name not in self._refusals and len(self._refusals) >= _MOST_NAMES:
                name = "elsewhere"
            self._refusals[name] = self._refusals.get(name, 0) + 1

    def _send_away(self, connection: _Connection, refusal: handshake.Refusal) -> None:
        # Far smaller than a socket's buffer: it is sent at once or the peer is gone.
        with contextlib.suppress(OSError):
            connection.sock.send(handshake.greet(self._token, bytes(32), refusal))
        self._drop(connection)

    # ---- bytes in and out

    def _receive(self, connection: _Connection) -> None:
        stranger = connection.state == _STRANGER
        room = handshake.RESPONSE_SIZE + 1 - len(connection.inbox) if stranger else _CHUNK
        data = connection.sock.recv(room)
        if not data:
            raise ConnectionError("closed by the client")
        if connection.state in (_WAITING, _ANSWERING):
            raise ProtocolError("a request before the last one was answered")
        connection.inbox += data
        if stranger:
            self._authenticate(connection)
            return
        parsed = parse(connection.inbox)
        if parsed is None:
            return
        message, consumed = parsed
        if consumed != len(connection.inbox):
            raise ProtocolError("a request before the last one was answered")
        connection.inbox.clear()
        self._handle(connection, message)

    def _answer(self, connection: _Connection, data: bytes) -> None:
        """Send a reply, now or as the client takes it. A client that is gone hurts only itself."""
        connection.state = _ANSWERING
        connection.outbox = memoryview(data)
        try:
            self._flush(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        if connection.outbox:
            self._selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _flush(self, connection: _Connection) -> None:
        sent = connection.sock.send(connection.outbox[:_CHUNK])
        connection.outbox = connection.outbox[sent:]
        if not connection.outbox:
            connection.state = _IDLE

    # ---- requests

    def _handle(self, connection: _Connection, message: Message) -> None:
        table, fields = self._table, message.fields
        changed: bytes | None = None
        match message.kind:
            case Kind.SET:
                table.set(*fields)
                changed = fields[0]
                reply = Message(Kind.DONE)
            case Kind.ADD:
                try:
                    reply = Message(Kind.DONE, table.add(fields[0], message.number))
                    changed = fields[0]
                except ValueError as error:
                    reply = Message(Kind.REFUSED, 0, (str(error).encode(),))
            case Kind.COMPARE_AND_SET:
                key, value, *expected = fields
                stored = table.compare_and_set(key, expected[0] if expected else None, value)
                changed = key
                reply = Message(Kind.VALUE, 0, () if stored is None else (stored,))
            case Kind.DELETE:
                reply = Message(Kind.DONE, sum(map(table.delete, fields)))
            case Kind.COUNT:
                reply = Message(Kind.DONE, table.count(fields[0]))
            case Kind.BEQUEATH:
                if len(fields) == 2:
                    self._wills[fields[0]] = connection, fields[1]
                else:
                    self._wills.pop(fields[0], None)
                reply = Message(Kind.DONE)
            case Kind.STRANGERS:
                text = ", ".join(f"{count} from {name}" for name, count in self._refusals.items())
                reply = Message(Kind.VALUE, 0, (text.encode(),))
            case Kind.GET | Kind.WAIT:
                connection.state = _WAITING
                connection.request = message.kind
                connection.keys = fields
                self._set_timer(connection, time.monotonic() + message.number / 1e9)
                self._look(connection)
                return
            case _:
                raise ProtocolError(f"{message.kind.name} is a reply")
        self._answer(connection, encode(reply))
        if changed is not None:
            self._appeared(changed)

    def _look(self, connection: _Connection) -> None:
        """Answer a waiting request if all its keys exist, or note which it waits for."""
        connection.missing = set(self._table.missing(connection.keys))
        if not connection.missing:
            self._end_wait(connection)
        for key in connection.missing:
            self._waiters.setdefault(key, set()).add(connection)

    def _appeared(self, key: bytes) -> None:
        for connection in self._waiters.pop(key, ()):
            connection.missing.discard(key)
            if not connection.missing and connection in self._connections:
                self._look(connection)  # another of its keys may have been deleted since

    def _end_wait(self, connection: _Connection) -> None:
        """Answer a waiting request with how things stand."""
        missing = tuple(self._table.missing(connection.keys))
        if missing:
            reply = Message(Kind.MISSING, 0, missing)
        elif connection.request is Kind.WAIT:
            reply = Message(Kind.DONE)
        else:
            value = self._table.get(connection.keys[0])
            assert value is not None  # it is not missing
            reply = Message(Kind.VALUE, 0, (value,))
        self._stop_waiting(connection)
        self._answer(connection, encode(reply))

    def _stop_waiting(self, connection: _Connection) -> None:
        for key in connection.missing:
            waiters = self._waiters.get(key)
            if waiters is not None:
                waiters.discard(connection)
                if not waiters:
                    del self._waiters[key]
        connection.missing = set()
        connection.keys = ()
        connection.request = None
        connection.timer = 0

    def _carry_out_wills(self) -> None:
        """Store what connections that have ended left to the others."""
        # Not when a connection is dropped: the answers to those who wait may drop another, and so on.
        self._ended = False
        for key, (connection, value) in list(self._wills.items()):
            if connection not in self._connections:
                del self._wills[key]
                self._table.compare_and_set(key, None, value)
                self._appeared(key)

    # ---- timers

    def _set_timer(self, connection: _Connection, when: float) -> None:
        if len(self._timers) > 2 * len(self._connections) + MAX_STRANGERS:  # most are void by now
            self._timers = [entry for entry in self._timers if entry[1] == entry[2].timer]
            heapq.heapify(self._timers)
        connection.timer = next(self._timer_numbers)
        heapq.heappush(self._timers, (when, connection.timer, connection))

    def _fire_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, number, connection = heapq.heappop(self._timers)
            if number != connection.timer or connection not in self._connections:
                continue
            if connection.state == _WAITING:
                self._end_wait(connection)
                continue
            if connection.state == _SECURING:  # who knows no TLS waits for us to speak
                self._note_refusal(connection)
                refusal = handshake.greet(self._token, bytes(32), handshake.Refusal.PLAIN)
                with contextlib.suppress(OSError):
                    socket.socket.send(connection.sock, refusal)
            self._drop(connection)

    def _pause(self) -> float:
        """Return the seconds until something is due by the clock alone, as the selector can take them."""
        now = time.monotonic()
        due = [now + _LONGEST_PAUSE]  # a client may name a time-out that no system call accepts
        if self._timers:
            due.append(self._timers[0][0])
        if not self._accepting:
            door = self._oldest() + STRANGER_GRACE if len(self._strangers) >= MAX_STRANGERS else 0.0
            due.append(max(door, self._accept_after))
        return max(0.0, min(due) - now)


_servers: weakref.WeakSet[StoreServer] = weakref.WeakSet()


def _forget_servers() -> None:
    for server in list(_servers):
        server.forget()
    _servers.clear()


os.register_at_fork(after_in_child=_forget_servers)
