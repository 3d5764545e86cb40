"""This machine's addresses, and which of them are used."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import addresses

ADDRESSES = [
    ("lo", "127.0.0.1"),
    ("eth0", "10.1.2.3"),
    ("eth1", "192.168.0.9"),
    ("eth0", "10.1.2.4"),
    ("lo", "::1"),
    ("eth0", "fe80::1"),
    ("eth0", "fd00::3"),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(name, ipaddress.ip_address(text)) for name, text in ADDRESSES]
    monkeypatch.setattr(addresses, "machine_addresses", lambda: found)


@pytest.mark.parametrize(
    ("interface", "wanted"),
    [
        ("loopback", "127.0.0.1 ::1"),
        ("any", "10.1.2.3 192.168.0.9 10.1.2.4 fd00::3"),
        ("eth0", "10.1.2.3 10.1.2.4 fd00::3"),
        ("lo", "127.0.0.1 ::1"),
        ("10.1.2.4", "10.1.2.4"),
        ("fd00::3", "fd00::3"),
        ("10.0.0.0/8", "10.1.2.3 10.1.2.4"),
        ("fd00::/16", "fd00::3"),
    ],
)
def test_what_a_choice_means(machine: None, interface: str, wanted: str) -> None:
    assert " ".join(map(str, addresses.choose(interface))) == wanted


@pytest.mark.parametrize("interface", ["eth7", "172.16.0.0/12", "10.9.9.9", "fe80::1", "nonsense/4"])
def test_a_choice_that_fits_nothing(machine: None, interface: str) -> None:
    with pytest.raises(RendezvousError) as caught:
        addresses.choose(interface)
    assert str(caught.value).startswith(f"COMMOPS_INTERFACE={interface} fits no address of this machine")
    assert "eth1 192.168.0.9" in str(caught.value)


def test_the_kernel_knows_loopback() -> None:
    assert ("lo", ipaddress.ip_address("127.0.0.1")) in addresses.machine_addresses()
    assert not any(ipaddress.ip_address(text).is_loopback for text in addresses.local_addresses())


def test_listening() -> None:
    sockets, places = addresses.listen(addresses.choose("loopback"))
    try:
        assert len(sockets) == len(places.split()) > 0
        for place in places.split():
            host, _, port = place.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    finally:
        for sock in sockets:
            sock.close()


def test_addresses_that_are_not_here_are_left_out() -> None:
    elsewhere = ipaddress.ip_address("192.0.2.77")
    sockets, places = addresses.listen([elsewhere, ipaddress.ip_address("127.0.0.1")])
    sockets[0].close()
    assert len(sockets) == 1
    assert places.startswith("127.0.0.1:")
    with pytest.raises(RendezvousError, match=r"can be listened at: 192\.0\.2\.77"):
        addresses.listen([elsewhere])


def test_one_machine_has_one_key() -> None:
    assert addresses.machine_key() == addresses.machine_key() != ""


def test_the_name_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMOPS_HOST", raising=False)
    assert addresses.host_name() == socket.gethostname()
    monkeypatch.setenv("COMMOPS_HOST", "left")
    assert addresses.host_name() == "left"
