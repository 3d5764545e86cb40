"""Ranks of one host hand each other descriptors, and nobody else gets any."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import handover
from commops.rendezvous.deadline import Deadline

TOKEN = b"secret"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def name() -> str:
    return f"commops-test-{uuid.uuid4().hex}"


def descriptors(text: str) -> handover.Descriptors:
    """Return three descriptors, the first of which can be told from others."""
    memory = os.memfd_create("test")
    os.write(memory, text.encode())
    return memory, os.eventfd(0), os.pidfd_open(os.getpid())


def texts(table: list[handover.Descriptors]) -> list[str]:
    """Read and close."""
    read = [os.pread(entry[0], 100, 0).decode() for entry in table]
    handover.close_all(table)
    return read


class Host:
    """The ranks of a host, a thread each."""

    def __init__(self, name: str, ranks: list[int]) -> None:
        self.name, self.ranks = name, ranks
        self.told: dict[int, list[str] | str] = {}

    def collect(self, listener: socket.socket, seconds: float = 5.0, **options: Callable[[], None]) -> None:
        own = descriptors(f"rank {self.ranks[0]}")
        try:
            table = handover.collect(listener, own, self.ranks, TOKEN, Deadline(seconds), **options)
        except RendezvousError as error:
            handover.close_all([own])
            self.told[self.ranks[0]] = str(error)
        else:
            self.told[self.ranks[0]] = texts(table)

    def fetch(self, place: int, token: bytes = TOKEN, seconds: float = 5.0) -> None:
        own = descriptors(f"rank {self.ranks[place]}")
        try:
            table = handover.fetch(self.name, own, place, self.ranks, token, Deadline(seconds))
            self.told[self.ranks[place]] = texts(table)
        except RendezvousError as error:
            self.told[self.ranks[place]] = str(error)
        finally:
            handover.close_all([own])


def run(*targets: Callable[[], None]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("size", [2, 5, 30])
def test_everybody_gets_everything(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_BATCH", 8)  # threads stand for ranks: few must fill several
    host = Host(name, [3 * place for place in range(size)])
    with handover.open_socket(name) as listener:
        others = [lambda place=place: host.fetch(place) for place in range(1, size)]
        run(lambda: host.collect(listener), *others)
    assert list(host.told.values()) == [[f"rank {3 * place}" for place in range(size)]] * size


def test_who_does_not_come_is_named(name: str) -> None:
    host = Host(name, [2, 5, 7, 8])
    with handover.open_socket(name) as listener:
        run(lambda: host.collect(listener, 0.3), lambda: host.fetch(2, seconds=3.0))
    assert host.told[2] == "rank 5, 8 came but did not share its memory in time; has it ended?"
    assert str(host.told[7]).startswith("rank 2 of this host is gone, or did not share its memory in time")


def test_a_check_ends_the_waiting(name: str) -> None:
    def check() -> None:
        raise RendezvousError("no use")

    host = Host(name, [0, 1])
    with handover.open_socket(name) as listener:
        host.collect(listener, 30.0, check=check)
    assert host.told[0] == "no use"


def test_strangers_get_nothing_and_do_no_harm(name: str) -> None:
    host = Host(name, [0, 1])

    def babble() -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(f"\0{name}")
            peer.sendall(b"x" * 76)
            assert peer.recv(1000, socket.MSG_WAITALL)[44:] == b""  # the greeting and no more

    def leave() -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(f"\0{name}")

    def come_in_turn() -> None:
        babble()
        leave()
        host.fetch(1, token=b"wrong")
        assert "gone" in str(host.told[1])
        host.fetch(1)

    with handover.open_socket(name) as listener:
        run(lambda: host.collect(listener), come_in_turn)
    assert host.told == {0: ["rank 0", "rank 1"], 1: ["rank 0", "rank 1"]}


@pytest.mark.parametrize("place", [0, 1, 9])
def test_a_place_that_is_taken_or_does_not_exist(name: str, place: int) -> None:
    host = Host(name, [0, 1, 2])

    def come_in_turn() -> None:
        if place == 1:
            first = threading.Thread(target=lambda: host.fetch(1))
            first.start()
            second = Host(name, [0, 1, 2])
            # One of the two is sent away; which of them, their threads decide.
            rival = threading.Thread(target=lambda: second.fetch(1))
            rival.start()
            rival_told = second.told
            host.fetch(2)
            for thread in (first, rival):
                thread.join()
            assert sum(isinstance(told, str) for told in (host.told[1], rival_told[1])) == 1
            host.told.pop(1)
        else:
            wrong = Host(name, [0, 1, 2, *range(3, 10)])
            wrong.fetch(place)
            assert "gone" in str(wrong.told[wrong.ranks[place]])
            run(lambda: host.fetch(1), lambda: host.fetch(2))

    with handover.open_socket(name) as listener:
        run(lambda: host.collect(listener), come_in_turn)
    assert host.told[0] == host.told[2] == ["rank 0", "rank 1", "rank 2"]


def test_a_collector_that_sends_nonsense(name: str) -> None:
    host = Host(name, [0, 1])

    def collect(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(5)
            handover._admit(peer, TOKEN)
            _, table = handover._receive(peer, 1)
            handover._send(peer, 7, table, Deadline(5))
            handover.close_all(table)

    with handover.open_socket(name) as listener:
        run(lambda: collect(listener), lambda: host.fetch(1))
    assert host.told[1] == "the descriptors of this host's ranks came out of order"


def test_nobody_collects(name: str) -> None:
    host = Host(name, [4, 6])
    host.fetch(1)
    assert str(host.told[6]).startswith("rank 4 of this host is gone")
