"""The store over TCP with TLS: what it does as ever, and whom it keeps out."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from commops.errors import AuthenticationError, CommError, RendezvousError
from commops.rendezvous import Credentials, TCPStore, open_store, tcp_server
from commops.rendezvous import tcp_handshake as handshake

from .servers import acting, exactly

pytest.importorskip("cryptography")

from commops.rendezvous.certificates import new_credentials

JOB, OTHER = Credentials(new_credentials()), Credentials(new_credentials())


@pytest.fixture(params=[b"a token", None], ids=["token", "no token"])
def token(request: pytest.FixtureRequest) -> bytes | None:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server(token: bytes | None) -> Iterator[TCPStore]:
    with TCPStore("127.0.0.1", 0, is_server=True, token=token, timeout=20, tls=JOB) as store:
        yield store


def client_of(server: TCPStore, token: bytes | None, tls: Credentials | None = JOB) -> TCPStore:
    return TCPStore("127.0.0.1", server.port, is_server=False, token=token, timeout=20, tls=tls)


def assert_serves(server: TCPStore, token: bytes | None) -> None:
    with client_of(server, token) as client:
        client.set("here", b"still")
        assert server.get("here") == b"still"


class TestCalls:
    def test_values_of_all_sizes(self, server: TCPStore, token: bytes | None) -> None:
        with client_of(server, token) as client:
            for size in (0, 1, 16383, 16384, 16385, 3 << 20):
                value = os.urandom(size)
                client.set(f"of {size}", value)
                assert server.get(f"of {size}") == client.get(f"of {size}") == value

    def test_waiting(self, server: TCPStore, token: bytes | None) -> None:
        with client_of(server, token) as client:
            setter = threading.Timer(0.1, server.set, ("late", b"value"))
            setter.start()
            assert client.get("late", timeout=20) == b"value"
            setter.join()
            with pytest.raises(CommError, match="missing"):
                client.wait(["never"], timeout=0.05)

    def test_many_at_once(self, server: TCPStore, token: bytes | None) -> None:
        def work() -> None:
            with client_of(server, token) as client:
                for _ in range(20):
                    client.add("count", 1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.add("count", 0) == 160

    def test_a_close_ends_a_call(self, server: TCPStore, token: bytes | None) -> None:
        client = client_of(server, token)
        closer = threading.Timer(0.1, client.close)
        closer.start()
        with pytest.raises(CommError):
            client.get("never", timeout=20)
        closer.join()

    def test_by_address(self, server: TCPStore, token: bytes | None) -> None:
        with open_store(server.address, is_server=False, token=token, timeout=20, tls=JOB) as client:
            assert client.add("n", 2) == 2

    def test_what_travels_is_not_in_clear(self, server: TCPStore, token: bytes | None) -> None:
        heard = bytearray()

        def listen(listener: socket.socket) -> None:
            with listener.accept()[0] as inner, socket.create_connection(("127.0.0.1", server.port)) as outer:
                ends = {inner: outer, outer: inner}
                for sock in ends:
                    sock.settimeout(0.01)
                while not done.is_set():
                    for sock, other in ends.items():
                        with contextlib.suppress(TimeoutError, ConnectionError):
                            data = sock.recv(1 << 16)
                            heard.extend(data)
                            other.sendall(data)

        done = threading.Event()
        with acting(listen) as port:
            with TCPStore("127.0.0.1", port, is_server=False, token=token, timeout=20, tls=JOB) as client:
                client.set("key", b"do not listen")
            done.set()
        assert server.get("key") == b"do not listen"
        assert len(heard) > 1000
        assert b"listen" not in heard


class TestStrangers:
    def test_a_certificate_of_another_authority(self, server: TCPStore, token: bytes | None) -> None:
        with pytest.raises(AuthenticationError, match="its certificate is not accepted: ") as caught:
            client_of(server, token, OTHER)
        assert server.address in str(caught.value)
        assert_serves(server, token)

    def test_a_client_that_trusts_everybody(self, server: TCPStore, token: bytes | None) -> None:
        for certificate in (False, True):
            context = OTHER.context(server=False) if certificate else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            with context.wrap_socket(sock) as secured:
                assert sent_away(secured)
        assert_serves(server, token)

    def test_one_that_the_server_does_not_accept(self, token: bytes | None) -> None:
        mixed = Credentials(OTHER.pem.rpartition(b"-----BEGIN")[0] + _authority(JOB))  # trusts the server
        with (
            TCPStore("127.0.0.1", 0, is_server=True, token=token, tls=JOB) as server,
            pytest.raises(AuthenticationError, match="it does not accept this process's certificate"),
        ):
            client_of(server, token, mixed)

    def test_another_token_inside(self) -> None:
        with TCPStore("127.0.0.1", 0, is_server=True, token=b"right", tls=JOB) as server:
            with pytest.raises(AuthenticationError, match="another token"):
                client_of(server, b"wrong")
            assert_serves(server, b"right")

    def test_a_holder_of_a_certificate_cannot_stand_between(self) -> None:
        def relay(listener: socket.socket) -> None:
            with (
                JOB.context(server=True).wrap_socket(listener.accept()[0], server_side=True) as inner,
                JOB.context(server=False).wrap_socket(
                    socket.create_connection(("127.0.0.1", server.port))
                ) as outer,
            ):
                inner.sendall(exactly(outer, handshake.GREETING_SIZE))
                outer.sendall(exactly(inner, handshake.RESPONSE_SIZE))
                inner.sendall(exactly(outer, handshake.GREETING_SIZE))
                inner.recv(1)

        with (
            TCPStore("127.0.0.1", 0, is_server=True, token=b"right", tls=JOB) as server,
            acting(relay) as port,
            pytest.raises(AuthenticationError, match="another token"),
        ):
            TCPStore("127.0.0.1", port, is_server=False, token=b"right", timeout=20, tls=JOB)

    def test_garbage_and_silence(self, server: TCPStore, token: bytes | None) -> None:
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(400), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
                sock.sendall(garbage)
                assert_serves(server, token)

    def test_a_crowd_keeps_nobody_out(self, server: TCPStore, token: bytes | None) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(tcp_server.MAX_STRANGERS + 20):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            start = time.monotonic()
            assert_serves(server, token)
            assert time.monotonic() - start < 10


class TestOneSideAlone:
    def test_a_client_without_tls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tcp_server, "HANDSHAKE_TIMEOUT", 0.1)
        with (
            TCPStore("127.0.0.1", 0, is_server=True, tls=JOB) as server,
            pytest.raises(AuthenticationError, match="the store speaks TLS and this process does not"),
        ):
            client_of(server, None, None)

    def test_a_server_without_tls(self) -> None:
        with (
            TCPStore("127.0.0.1", 0, is_server=True) as server,
            pytest.raises(RendezvousError, match="what answers there speaks no TLS"),
        ):
            client_of(server, None)


def sent_away(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1)
    except OSError:
        return True


def _authority(credentials: Credentials) -> bytes:
    before, begin, rest = credentials.pem.rpartition(b"-----BEGIN")
    assert before
    return begin + rest
