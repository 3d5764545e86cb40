"""The stores over sockets: who gets in, and what a bad peer cannot do."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import TCPStore, UnixStore, new_token, open_store, tcp_server
from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.tcp_protocol import Kind, Message, encode

from .conftest import free_port

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


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part
        data += part
    return data


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


class TestAddress:
    def test_port_zero_takes_a_free_one(self) -> None:
        with TCPStore("127.0.0.1", 0, is_server=True) as one, TCPStore("127.0.0.1", 0, is_server=True) as two:
            assert one.host == "127.0.0.1"
            assert one.port != two.port
            assert one.address == f"tcp://127.0.0.1:{one.port}"

    def test_ipv6(self) -> None:
        if not has_ipv6():
            pytest.skip("this machine has no IPv6")
        with TCPStore("::1", 0, is_server=True) as server:
            assert server.address == f"tcp://[::1]:{server.port}"
            with open_store(server.address, is_server=False, timeout=20) as client:
                client.set("key", b"value")
            assert server.get("key") == b"value"

    def test_a_host_name(self) -> None:
        with (
            TCPStore("localhost", 0, is_server=True) as server,
            TCPStore("localhost", server.port, is_server=False, timeout=20) as client,
        ):
            client.set("key", b"value")
            assert server.get("key") == b"value"

    def test_a_port_in_use(self) -> None:
        with TCPStore("127.0.0.1", 0, is_server=True) as server:
            with pytest.raises(RendezvousError, match=rf"127\.0\.0\.1.*port {server.port} is in use"):
                TCPStore("127.0.0.1", server.port, is_server=True)
            server.set("key", b"unharmed")

    def test_a_port_of_a_closed_server_is_free(self) -> None:
        with TCPStore("127.0.0.1", 0, is_server=True) as server:
            server.set("key", b"value")
        with TCPStore("127.0.0.1", server.port, is_server=True) as again:
            assert again.count() == 0

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(RendezvousError, match="address of this machine"):
            TCPStore("192.0.2.1", 0, is_server=True, token=b"secret")

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_no_port_at_all(self, port: int) -> None:
        with pytest.raises(ValueError, match="port must be from 0 to 65535"):
            TCPStore("127.0.0.1", port, is_server=True)

    def test_port_zero_is_for_servers(self) -> None:
        with pytest.raises(ValueError, match="port 0"):
            TCPStore("127.0.0.1", 0, is_server=False)


class TestServerGone:
    def test_nobody_answers(self) -> None:
        port = free_port()
        with pytest.raises(
            RendezvousError, match=rf"tcp://127\.0\.0\.1:{port} within 0\.2 s.*start"
        ) as caught:
            TCPStore("127.0.0.1", port, is_server=False, timeout=0.2)
        assert not isinstance(caught.value, AuthenticationError)

    def test_somebody_listens_and_says_nothing(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(RendezvousError, match="no store"),
        ):
            TCPStore("127.0.0.1", listener.getsockname()[1], is_server=False, timeout=0.2)

    def test_somebody_speaks_another_protocol(self) -> None:
        def pretend(listener: socket.socket) -> None:
            with listener.accept()[0] as sock:
                sock.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3, and so on\r\n")

        with acting(pretend) as port, pytest.raises(RendezvousError, match="not a commops store"):
            TCPStore("127.0.0.1", port, is_server=False, timeout=20)

    def test_somebody_hangs_up_and_the_next_is_the_store(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
            port = listener.getsockname()[1]
            client = pool.submit(TCPStore, "127.0.0.1", port, is_server=False, timeout=30)
            listener.accept()[0].close()
            listener.close()
            with TCPStore("127.0.0.1", port, is_server=True) as server, client.result(30) as connected:
                connected.set("key", b"value")
                assert server.get("key") == b"value"

    def test_the_server_may_start_later(self) -> None:
        port = free_port()
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(TCPStore, "127.0.0.1", port, is_server=False, timeout=30)
            time.sleep(0.05)
            with TCPStore("127.0.0.1", port, is_server=True) as server, client.result(30) as connected:
                connected.set("key", b"value")
                assert server.get("key") == b"value"

    def test_its_end_ends_the_calls_that_wait(self) -> None:
        with (
            TCPStore("127.0.0.1", 0, is_server=True) as server,
            TCPStore("127.0.0.1", server.port, is_server=False, timeout=60) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            waiting = pool.submit(client.get, "absent")
            server.close()
            with pytest.raises(RendezvousError):
                waiting.result(15)
            with pytest.raises(RendezvousError, match="no store answered"):
                client.set("key", b"", timeout=0.1)

    def test_its_death_ends_the_calls_that_wait(self) -> None:
        script = """
            from commops.rendezvous import TCPStore
            store = TCPStore("127.0.0.1", 0, is_server=True)
            print(store.port, flush=True)
            store.get("absent", timeout=120)
        """
        with running(script) as process, ThreadPoolExecutor(1) as pool:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with TCPStore("127.0.0.1", port, is_server=False, timeout=60) as client:
                client.set("key", b"")
                waiting = pool.submit(client.get, "absent")
                process.kill()
                with pytest.raises(RendezvousError):
                    waiting.result(15)

    def test_one_that_is_stopped_does_not_hold_a_call_for_ever(self) -> None:
        script = """
            from commops.rendezvous import TCPStore
            store = TCPStore("127.0.0.1", 0, is_server=True)
            print(store.port, flush=True)
            store.get("absent", timeout=120)
        """
        with running(script) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with TCPStore("127.0.0.1", port, is_server=False, timeout=60) as client:
                process.send_signal(signal.SIGSTOP)
                while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                    time.sleep(0.001)
                with pytest.raises(RendezvousError, match="did not answer"):
                    client.set("key", b"", timeout=0.05)
                process.send_signal(signal.SIGCONT)
                client.set("key", b"again")
                assert client.get("key") == b"again"


class TestFork:
    def test_parent_and_child_both_go_on_and_the_child_keeps_no_port(self) -> None:
        script = """
            import os, sys, time
            from commops.rendezvous import TCPStore
            store = TCPStore("127.0.0.1", 0, is_server=True, timeout=30)
            store.set("before", b"")
            child = os.fork()
            if child == 0:
                store.add("n", 1)
                store.close()
                sys.stdin.read()  # live on while the parent ends
                os._exit(0)
            store.add("n", 10)
            while store.get("n") != b"11":
                time.sleep(0.005)
            print(store.port, flush=True)
            store.close()
        """
        with running(script) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            process.wait(20)
            with TCPStore("127.0.0.1", port, is_server=True):
                pass


class TestUnix:
    def test_a_name_that_is_taken(self) -> None:
        name = f"test-{uuid.uuid4().hex}"
        with UnixStore(name, is_server=True) as server:
            with pytest.raises(RendezvousError, match=f"unix:{name}: the name is taken"):
                UnixStore(name, is_server=True)
            server.set("key", b"unharmed")
        with UnixStore(name, is_server=True) as again:
            assert again.count() == 0

    def test_nobody_answers(self) -> None:
        with pytest.raises(RendezvousError, match="no store answered at unix:nobody"):
            UnixStore(f"nobody-{uuid.uuid4().hex}", is_server=False, timeout=0.1)

    @pytest.mark.parametrize("name", ["", "n" * 99])
    def test_a_name_that_cannot_be(self, name: str) -> None:
        with pytest.raises(ValueError, match="1 to 98 bytes"):
            UnixStore(name, is_server=True)

    def test_a_token_counts_here_too(self) -> None:
        name = f"test-{uuid.uuid4().hex}"
        with UnixStore(name, is_server=True, token=b"right") as server:
            with pytest.raises(AuthenticationError, match="another token"):
                UnixStore(name, is_server=False, token=b"wrong", timeout=20)
            with UnixStore(name, is_server=False, token=b"right", timeout=20) as client:
                client.set("key", b"value")
            assert server.get("key") == b"value"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    @pytest.mark.parametrize("stranger_serves", [False, True])
    def test_another_user_is_refused(self, stranger_serves: bool) -> None:
        script = f"""
            import os
            from commops.errors import AuthenticationError
            from commops.rendezvous import UnixStore
            name = "test-{uuid.uuid4().hex}"
            ready, go = os.pipe()
            child = os.fork()
            if (child == 0) == {stranger_serves}:
                if child == 0:
                    os.setuid(65534)
                store = UnixStore(name, is_server=True)
                os.write(go, b"!")
                if child == 0:
                    store.get("absent", timeout=60)
                store.set("key", b"")
                _, status = os.waitpid(child, 0)
                assert store.count() == 1
                store.close()
                print(status, flush=True)
            else:
                if child == 0:
                    os.setuid(65534)
                os.read(ready, 1)
                try:
                    UnixStore(name, is_server=False, timeout=20).close()
                except AuthenticationError as error:
                    print(error, flush=True)
                if child != 0:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                os._exit(0)
        """
        with running(script) as process:
            output, _ = process.communicate(timeout=60)
        assert "another user" in output


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@contextmanager
def acting(part: Callable[[socket.socket], None]) -> Iterator[int]:
    """Play the server: run `part` with a listening socket in a thread; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=part, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, killed at the end if it still lives."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
