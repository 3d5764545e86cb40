"""Where the server of a socket store listens when its host is called by its own name."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import TCPStore
from commops.rendezvous.endpoint import TCPEndpoint

real = socket.getaddrinfo


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know this machine as node7, and that name, with others, as Debian puts it into /etc/hosts."""

    def lookup(host: bytes | str, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        known = name.lower() in ("node7", "node7.example.org", "database")
        return real("127.0.1.1" if known else name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")


def bound(host: str, authenticated: bool = True) -> str:
    with TCPEndpoint(host, 0).listen(authenticated=authenticated) as listener:
        return str(listener.getsockname()[0])


@pytest.mark.parametrize("host", ["node7", "NODE7", "node7.example.org"])
def test_the_machines_own_name_means_all_its_addresses(host: str) -> None:
    assert bound(host) in ("::", "0.0.0.0")


def test_without_a_token_it_stays_on_loopback() -> None:
    assert bound("node7", authenticated=False) == "127.0.1.1"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.1.1", "database"])
def test_what_was_meant_to_be_loopback_is(host: str) -> None:
    assert bound(host).startswith("127.") or bound(host) == "::1"


def test_a_machine_that_is_called_localhost_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert bound("localhost") in ("127.0.0.1", "::1")


def test_a_name_with_a_real_address_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(RendezvousError, match="must be an address of this machine"):
        TCPEndpoint("192.0.2.1", 0).listen(authenticated=True)


def test_others_come_in_by_any_address() -> None:
    with TCPStore("node7", 0, is_server=True, token=b"t") as server:
        assert server.address == f"tcp://node7:{server.port}"
        for host in ("node7", "127.0.0.1"):
            with TCPStore(host, server.port, is_server=False, token=b"t", timeout=20) as store:
                store.set("key", b"value")
        assert server.get("key") == b"value"
