"""The store over TCP and those who connect to it: who gets in, and what a bad peer cannot do."""

from __future__ import annotations

import os
import socket
import struct
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import TCPStore, new_token, tcp_server
from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.tcp_protocol import Kind, Message, encode

from .servers import acting, exactly, has_ipv6

HEADER = struct.Struct("!B3sIqQ")


@pytest.fixture(params=["token", "no token"])
def token(request: pytest.FixtureRequest) -> bytes | None:
    return new_token() if request.param == "token" else None


@pytest.fixture
def server(token: bytes | None) -> Iterator[TCPStore]:
    with TCPStore("127.0.0.1", 0, is_server=True, token=token, timeout=20) as store:
        yield store


@pytest.fixture
def stranger(server: TCPStore) -> Iterator[Callable[[], socket.socket]]:
    """Make bare connections to the server, closed when the test ends."""
    with ExitStack() as closing:
        yield lambda: closing.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))


@pytest.fixture
def member(stranger: Callable[[], socket.socket], token: bytes | None) -> Callable[[], socket.socket]:
    """Make bare connections that have been through the handshake."""

    def connect() -> socket.socket:
        sock = stranger()
        server_nonce = handshake.read_greeting(token, exactly(sock, handshake.GREETING_SIZE))
        nonce = handshake.new_nonce()
        sock.sendall(handshake.respond(token, server_nonce, nonce))
        handshake.read_verdict(token, server_nonce, nonce, exactly(sock, handshake.GREETING_SIZE))
        return sock

    return connect


def is_dropped(sock: socket.socket) -> bool:
    """Read until the server ends the connection, which it must."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def assert_serves(server: TCPStore, token: bytes | None) -> None:
    with TCPStore("127.0.0.1", server.port, is_server=False, token=token, timeout=20) as client:
        key = uuid.uuid4().hex
        client.set(key, b"still here")
        assert server.get(key) == b"still here"


class TestAuthentication:
    @pytest.mark.parametrize(
        ("servers", "clients", "words"),
        [
            (b"right", b"wrong", "another token"),
            (b"right", b"right ", "another token"),
            (b"right", None, "asks for a token and none is set here"),
            (None, b"right", "the store has none"),
        ],
    )
    def test_tokens_that_differ(self, servers: bytes | None, clients: bytes | None, words: str) -> None:
        with TCPStore("127.0.0.1", 0, is_server=True, token=servers) as server:
            with pytest.raises(AuthenticationError, match=words) as caught:
                TCPStore("127.0.0.1", server.port, is_server=False, token=clients, timeout=20)
            assert server.address in str(caught.value)
            assert_serves(server, servers)

    @pytest.mark.parametrize("trick", ["random proof", "mirrored proof"])
    def test_a_false_server_is_found_out(self, trick: str) -> None:
        def pretend(listener: socket.socket) -> None:
            with listener.accept()[0] as sock:
                greeting = handshake.greet(b"another", os.urandom(32))
                sock.sendall(greeting)
                response = exactly(sock, handshake.RESPONSE_SIZE)
                sock.sendall(greeting[:12] + (os.urandom(32) if trick == "random proof" else response[-32:]))

        with acting(pretend) as port, pytest.raises(AuthenticationError, match="did not prove"):
            TCPStore("127.0.0.1", port, is_server=False, token=b"right", timeout=20)

    def test_an_empty_token_is_no_token(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            TCPStore("127.0.0.1", 0, is_server=True, token=b"")

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_beyond_loopback_only_with_a_token(self, host: str) -> None:
        if ":" in host and not has_ipv6():
            pytest.skip("this machine has no IPv6")
        with pytest.raises(RendezvousError, match="COMMOPS_TOKEN"):
            TCPStore(host, 0, is_server=True)
        token = new_token()
        with TCPStore(host, 0, is_server=True, token=token) as server:
            server.set("key", b"value")  # through a loopback connection of its own
            assert_serves(server, token)

    def test_the_token_is_never_shown(self) -> None:
        token = new_token()
        with TCPStore("127.0.0.1", 0, is_server=True, token=token) as server:
            assert bytes(token).decode() not in repr(server) + repr(token) + str(token) + f"{token}"


class TestStrangers:
    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 100,
            bytes(76),
            b"\xff" * 77,
            os.urandom(5000),
            encode(Message(Kind.SET, 0, (b"key", b"x" * 100))),
        ],
        ids=["http", "zeros", "one byte too many", "random", "a frame too early"],
    )
    def test_garbage_is_dropped(
        self, server: TCPStore, token: bytes | None, stranger: Callable[[], socket.socket], data: bytes
    ) -> None:
        sock = stranger()
        sock.sendall(data)
        assert is_dropped(sock)
        assert_serves(server, token)
        assert server.count() == 1

    def test_silent_ones_do_not_keep_others_out(
        self, server: TCPStore, token: bytes | None, stranger: Callable[[], socket.socket]
    ) -> None:
        sockets = [stranger() for _ in range(tcp_server.MAX_STRANGERS + 20)]
        sockets[0].sendall(b"half a resp")
        assert_serves(server, token)

    def test_slow_ones_are_dropped(
        self,
        server: TCPStore,
        token: bytes | None,
        stranger: Callable[[], socket.socket],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tcp_server, "HANDSHAKE_TIMEOUT", 0.05)
        silent, slow = stranger(), stranger()
        slow.sendall(b"commops\0")
        assert is_dropped(silent)
        assert is_dropped(slow)
        monkeypatch.undo()
        assert_serves(server, token)

    def test_those_that_leave_at_once(
        self, server: TCPStore, token: bytes | None, stranger: Callable[[], socket.socket]
    ) -> None:
        for reset in (False, True) * 20:
            sock = stranger()
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert_serves(server, token)


class TestMembers:
    @pytest.mark.parametrize(
        "data",
        [
            HEADER.pack(Kind.SET, b"\0\0\0", 2, 0, 2**63),
            HEADER.pack(Kind.SET, b"\0\0\0", 2, 0, (64 << 20) + (4 << 10) + 17),
            HEADER.pack(77, b"\0\0\0", 0, 0, 0),
            encode(Message(Kind.DONE)),
            encode(Message(Kind.COUNT, 0, (b"",))) * 2,
            encode(Message(Kind.GET, 10**12, (b"absent",))) + b"more",
        ],
        ids=["huge", "one byte too large", "unknown kind", "a reply", "two at once", "talks while waiting"],
    )
    def test_nonsense_is_dropped(
        self, server: TCPStore, token: bytes | None, member: Callable[[], socket.socket], data: bytes
    ) -> None:
        sock = member()
        sock.sendall(data)
        assert is_dropped(sock)
        assert_serves(server, token)

    def test_one_that_dies_while_waiting(
        self, server: TCPStore, token: bytes | None, member: Callable[[], socket.socket]
    ) -> None:
        for key in (b"key", b"other"):
            sock = member()
            sock.sendall(encode(Message(Kind.WAIT, 10**12, (key, b"absent"))))
            sock.close()
        server.set("key", b"value")
        assert_serves(server, token)
        server.set("absent", b"")

    def test_one_that_stops_in_the_middle_of_a_frame(
        self, server: TCPStore, token: bytes | None, member: Callable[[], socket.socket]
    ) -> None:
        sock = member()
        frame = encode(Message(Kind.SET, 0, (b"key", b"x" * (1 << 20))))
        sock.sendall(frame[: 1 << 19])
        assert_serves(server, token)
        sock.sendall(frame[1 << 19 :])
        assert exactly(sock, 24) == encode(Message(Kind.DONE))
        assert server.get("key") == b"x" * (1 << 20)

    def test_one_byte_at_a_time(self, server: TCPStore, member: Callable[[], socket.socket]) -> None:
        sock = member()
        for byte in encode(Message(Kind.ADD, 5, (b"n",))):
            sock.sendall(bytes([byte]))
        assert exactly(sock, 24) == encode(Message(Kind.DONE, 5))

    def test_one_that_does_not_read(
        self, server: TCPStore, token: bytes | None, member: Callable[[], socket.socket]
    ) -> None:
        value = b"x" * (16 << 20)
        server.set("key", value)
        sock = member()
        sock.sendall(encode(Message(Kind.GET, 0, (b"key",))))
        assert_serves(server, token)
        assert exactly(sock, 24 + 8 + len(value)).endswith(value)  # it was kept for it

    def test_one_that_would_wait_for_centuries(
        self, server: TCPStore, token: bytes | None, member: Callable[[], socket.socket]
    ) -> None:
        sock = member()
        sock.sendall(encode(Message(Kind.GET, 2**63 - 1, (b"key",))))
        assert_serves(server, token)
        server.set("key", b"value")
        assert exactly(sock, 24 + 8 + 5).endswith(b"value")

    def test_too_many_keys_to_wait_for(self, server: TCPStore) -> None:
        with pytest.raises(ValueError, match="at most 65536 keys, not 65537"):
            server.wait(map(str, range(65537)))

    def test_many_that_wait_for_one_key(self, server: TCPStore, member: Callable[[], socket.socket]) -> None:
        sockets = [member() for _ in range(100)]
        for sock in sockets:
            sock.sendall(encode(Message(Kind.GET, 10**11, (b"key",))))
        server.set("key", b"value")
        assert all(exactly(sock, 24 + 8 + 5).endswith(b"value") for sock in sockets)
