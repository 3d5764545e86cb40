"""The store over TCP: where it listens, and what its clients notice when it is not there."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import TCPStore, open_store

from .conftest import free_port
from .servers import acting, has_ipv6, running


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
