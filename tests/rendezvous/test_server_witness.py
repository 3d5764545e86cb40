"""What a store with a server can tell others: that a process has ended, and whom it has refused."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import HashStore, PrefixStore, Store, TCPStore, UnixStore, open_store, tcp_server

TOKEN = b"right"


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "tcp":
        store: TCPStore | UnixStore = TCPStore("127.0.0.1", 0, is_server=True, token=TOKEN, timeout=20)
    else:
        store = UnixStore(f"test-{uuid.uuid4().hex}", is_server=True, token=TOKEN, timeout=20)
    with store:
        yield store


def client(server: Store, token: bytes | None = TOKEN) -> Store:
    assert isinstance(server, (TCPStore, UnixStore))
    return open_store(server.address, is_server=False, token=token, timeout=20)


class TestBequeath:
    def test_the_end_of_a_process_makes_the_key(self, server: Store) -> None:
        assert isinstance(server, (TCPStore, UnixStore))
        script = """
import os, signal, sys
from commops.rendezvous import open_store
store = open_store(sys.argv[1], is_server=False, token="right", timeout=20)
assert store.bequeath("last word", b"farewell")
store.set("ready", b"")
os.kill(os.getpid(), signal.SIGKILL)
"""
        with subprocess.Popen([sys.executable, "-c", script, server.address]):
            assert server.get("last word") == b"farewell"
            assert server.count() == 2

    def test_closing_the_store_is_an_end(self, server: Store) -> None:
        with client(server) as store:
            store.bequeath("last word", b"farewell")
            store.bequeath("another", b"")
            assert server.count() == 0
        server.wait(["last word", "another"])

    def test_it_can_be_taken_back_through_any_connection(self, server: Store) -> None:
        with client(server) as store:
            store.bequeath("last word", b"farewell")
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(store.get, "go")  # takes the connection that would have to end
                while not waiting.running():
                    pass
                store.bequeath("last word", None)
                store.bequeath("other", b"")
                store.set("go", b"")
                waiting.result(20)
        server.get("other")
        assert server.count("last") == 0

    def test_what_is_there_stays(self, server: Store) -> None:
        server.set("last word", b"mine")
        with client(server) as store:
            store.bequeath("last word", b"farewell")
            store.bequeath("other", b"")
        server.get("other")
        assert server.get("last word") == b"mine"

    def test_many_ends_at_once(self, server: Store) -> None:
        clients = [client(server) for _ in range(100)]
        for number, store in enumerate(clients):
            store.bequeath(f"{number}", b"")
        for store in clients:
            store.close()
        server.wait(f"{number}" for number in range(100))

    def test_under_a_prefix(self, server: Store) -> None:
        with client(server) as store:
            assert PrefixStore("part", store).bequeath("last word", b"farewell")
        assert server.get("part/last word") == b"farewell"

    def test_a_store_without_a_server_says_that_it_cannot(self) -> None:
        with HashStore() as store:
            assert not store.bequeath("last word", b"")
        assert store._table.count(b"") == 0

    def test_bad_arguments(self, server: Store) -> None:
        with pytest.raises(TypeError, match="value must be bytes"):
            server.bequeath("key", "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="key must be a str"):
            server.bequeath(b"key", b"")  # type: ignore[arg-type]


class TestRefused:
    @pytest.mark.parametrize("token", [b"wrong", None])
    def test_who_has_another_token_is_counted(self, server: Store, token: bytes | None) -> None:
        assert server.refused() == ""
        for _ in range(2):
            with pytest.raises(AuthenticationError):
                client(server, token)
        text = server.refused()
        assert text.startswith("2 from 127.0.0.1" if isinstance(server, TCPStore) else "2 from process ")
        assert PrefixStore("part", server).refused() == text

    def test_who_has_a_token_where_the_server_has_none(self) -> None:
        with TCPStore("127.0.0.1", 0, is_server=True) as server:
            with pytest.raises(AuthenticationError, match="the store has none"):
                client(server)
            assert server.refused() == "1 from 127.0.0.1"

    def test_many_strangers_take_no_room(self, server: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tcp_server, "_MOST_NAMES", 0)
        for _ in range(3):
            with pytest.raises(AuthenticationError):
                client(server, b"wrong")
        assert server.refused() == "3 from elsewhere"

    def test_a_closed_store_refuses_to_say(self, server: Store) -> None:
        server.close()
        with pytest.raises(RendezvousError, match="closed"):
            server.refused()
