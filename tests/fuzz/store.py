"""Fuzz targets of the rendezvous: what a store and its ranks read of others, as functions of bytes.

`run.py` gives these to atheris, which looks for inputs that reach new code; `test_corpus.py` replays the
inputs in the tree. A target raises where something does not hold that must; what it may raise by right, for
bytes that are nonsense, it takes as an answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous import tcp_server
from commops.rendezvous.card import Card, _proof, disagreement, unseal
from commops.rendezvous.endpoint import Endpoint
from commops.rendezvous.plan import Plan
from commops.rendezvous.tcp_protocol import ProtocolError, encode, parse
from commops.rendezvous.token import Token

__all__ = ["TARGETS"]

TOKEN = Token(b"secret")
NONCE = bytes(range(32))


class Input:
    """What is left of an input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or as many as there are."""
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def byte(self) -> int:
        """Return the next byte, 0 at the end."""
        return (self.take(1) or b"\0")[0]

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data))


def frames(data: bytes) -> None:
    """Read a stream of frames: a message has one spelling, and no beginning of it is one."""
    buffer = bytearray(data)
    while buffer:
        try:
            parsed = parse(buffer)
        except ProtocolError:
            return
        if parsed is None:
            return
        message, consumed = parsed
        frame = bytes(buffer[:consumed])
        assert encode(message) == frame
        assert parse(frame[:-1]) is None
        del buffer[:consumed]


def greetings(data: bytes) -> None:
    """Read the messages of the handshake, as either side, with and without a token."""
    source = Input(data)
    which, token = source.byte(), TOKEN if source.byte() & 1 else None
    if which % 3 == 0:
        response = source.take(handshake.RESPONSE_SIZE).ljust(handshake.RESPONSE_SIZE, b"\0")
        if handshake.accepts_response(token, NONCE, response):
            assert response == handshake.respond(token, NONCE, response[12:44])
        return
    message = source.take(handshake.GREETING_SIZE).ljust(handshake.GREETING_SIZE, b"\0")
    with suppress(ProtocolError, AuthenticationError):
        if which % 3 == 1:
            assert handshake.read_greeting(token, message) == message[12:]
        else:
            handshake.read_verdict(token, NONCE, NONCE, message)
            right = handshake.verdict(token, NONCE, handshake.respond(token, NONCE, NONCE))
            assert message[12:] == right[12:]


def cards(data: bytes) -> None:
    """Read a card, a plan or a complaint that is sealed as it should be, or whatever the bytes are."""
    source = Input(data)
    which = source.byte()
    token = TOKEN if which & 1 else None
    body = source.rest()
    kind = ("card", "world", "trouble")[which // 4 % 3]
    sealed = body if which & 2 else _sealed(token, kind, body)
    with suppress(RendezvousError):
        if kind == "card":
            card = Card.unpack(token, sealed, 0)
            assert Card.unpack(token, card.pack(token), 0) == card
            assert all(type(value) is int for value in card.tunables.values())
            for other in (card, card._replace(tunables={"slots": 3}), card._replace(machine="another")):
                text = disagreement([card, other._replace(rank=1)])
                assert text is None or text.encode()
        elif kind == "world":
            plan = Plan.of(Plan.fields_of(token, sealed))
            assert [card.rank for card in plan.cards] == list(range(len(plan.cards)))
            assert len(bytes.fromhex(plan.job)) == 16
            assert all(type(nonce) is str for nonce in plan.nonces.values())
            assert all(type(value) is int for value in plan.tunables.values())
            assert Plan.of(Plan.fields_of(token, plan.pack(token))) == plan
        else:
            str(unseal(token, kind, sealed, "somebody")).encode()


def _sealed(token: Token | None, kind: str, body: bytes) -> bytes:
    """Seal bytes that may be no JSON, as a hostile writer without a token may."""
    return _proof(token, kind, body) + body


class _Listening(Endpoint):
    """A listener of the Unix domain without a name: nobody else finds it, and no port is used up."""

    url = "fuzz:"

    def listen(self, *, authenticated: bool) -> socket.socket:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("")  # the kernel gives it an abstract name
        self._listener.listen()
        return self._listener

    def connect(self, deadline: object = None) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self._listener.getsockname())
        client.setblocking(False)
        return client

    def bound(self, listener: socket.socket) -> Endpoint:
        return self

    def prepare(self, connection: socket.socket) -> None:
        pass

    def peer(self, connection: socket.socket) -> str:
        return "somebody"


class _Client:
    """The other end of a connection: it counts what it has asked, and reads what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = b""
        self.proven = False
        self.dead = False

    def say(self, data: bytes) -> None:
        with suppress(OSError):  # the server may have closed it
            self.sock.send(data)

    def listen(self) -> None:
        try:
            while part := self.sock.recv(1 << 20):
                self.inbox += part
            self.dead = True
        except BlockingIOError:
            pass
        except OSError:
            self.dead = True

    def prove(self, token: Token | None) -> None:
        """Answer the greeting, once."""
        if not self.proven and len(self.inbox) == handshake.GREETING_SIZE and self.inbox[11] == 0:
            self.say(handshake.respond(token, self.inbox[12:], NONCE))
            self.proven = True


class _Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1.0

    def monotonic(self) -> float:
        return self.now


class _NoThread:
    """In the place of `threading`, and of its threads: whoever makes a server does its turns."""

    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        pass

    Thread: type[_NoThread]


_NoThread.Thread = _NoThread


@contextmanager
def _served(token: Token | None, clock: _Clock) -> Iterator[tuple[tcp_server.StoreServer, _Listening]]:
    """Yield a server whose thread is the caller's: it makes a turn when it is told to."""
    endpoint = _Listening()
    patched = {"time": clock, "threading": _NoThread}
    before = {name: getattr(tcp_server, name) for name in patched}
    for name, value in patched.items():
        setattr(tcp_server, name, value)
    try:
        made = tcp_server.StoreServer(endpoint, token)
        try:
            yield made, endpoint
        finally:
            made.forget()  # there is no thread to be ended
    finally:
        for name, value in before.items():
            setattr(tcp_server, name, value)


MOST_RECORDS, MOST_CLIENTS = 40, 4


def server(data: bytes) -> None:
    """Play up to four clients of a server: strangers, and members that say anything."""
    source = Input(data)
    token = TOKEN if source.byte() & 1 else None
    clock = _Clock()
    clients: dict[int, _Client] = {}
    with _served(token, clock) as (served, endpoint):
        for _ in range(MOST_RECORDS):
            if not source:
                break
            _record(source, clients, endpoint, token, clock)
            while served._turn(waits=False):
                pass
            for client in clients.values():
                client.listen()
            _check(served, clients)
        for client in clients.values():
            client.sock.close()
        while served._turn(waits=False):
            pass
        assert not served._connections
        assert not served._strangers
        assert not served._waiters
        assert not served._wills


def _record(
    source: Input, clients: dict[int, _Client], endpoint: _Listening, token: Token | None, clock: _Clock
) -> None:
    """Let one thing happen: a byte says what, and to which client."""
    what = source.byte()
    number, what = what % MOST_CLIENTS, what // MOST_CLIENTS % 6
    client = clients.get(number)
    if what == 0:
        if client is not None:
            client.sock.close()
        clients[number] = _Client(endpoint.connect())
    elif what == 1:
        clock.now += source.byte() / 16
    elif client is None:
        return
    elif what == 2:
        client.prove(token)
    elif what == 3:
        client.say(source.take(source.byte()))
    elif what == 4:
        client.say(source.take(source.byte() << 8 | source.byte()))
    else:
        clients.pop(number).sock.close()


def _check(served: tcp_server.StoreServer, clients: dict[int, _Client]) -> None:
    assert len(served._connections) <= len(clients)
    if not any(client.proven for client in clients.values()):
        assert len(served._strangers) == len(served._connections)
        # A will of a member that has left may be in the table; a stranger's words are not.
    for client in clients.values():
        if not client.proven:
            assert len(client.inbox) <= 2 * handshake.GREETING_SIZE  # a greeting, and why it is sent away
            continue
        replies = client.inbox[2 * handshake.GREETING_SIZE :]
        while replies:
            parsed = parse(replies)  # raises if it is none
            if parsed is None:
                break
            replies = replies[parsed[1] :]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "store-cards": cards,
    "store-frames": frames,
    "store-greetings": greetings,
    "store-server": server,
}
"""What each is called, in the tree and on the command line."""
