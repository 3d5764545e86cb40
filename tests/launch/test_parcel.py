"""Objects between processes, large data beside them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from commops.launch import parcel
from commops.launch.parcel import Kind, pack, receive, send, unpack

from .support import descriptors


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("count", [0, 1, 1000, 100_000])
@pytest.mark.parametrize("shared", [False, True])
def test_arrays_arrive_as_they_were(
    pair: tuple[socket.socket, socket.socket], count: int, shared: bool
) -> None:
    value = {
        "a": np.arange(count),
        "b": np.ones((count, 2), order="F"),
        "c": np.arange(2 * count)[::2],
        "d": "x",
    }
    sent = pack(value)
    send(pair[0], Kind.RESULT, 7, sent)
    sent.close()
    received = receive(pair[1])
    assert received is not None
    kind, about, arrived = received
    assert (kind, about) == (Kind.RESULT, 7)
    result = unpack(arrived, shared=shared)
    arrived.close()
    assert result["d"] == "x"
    for name in "abc":
        np.testing.assert_array_equal(result[name], value[name])
        assert result[name].flags.writeable
        result[name][...] = 0  # and harms nobody


def test_what_was_read_only_stays_so() -> None:
    value = np.arange(100_000)
    value.flags.writeable = False
    packed = pack(value)
    assert not unpack(packed).flags.writeable
    packed.close()


def test_each_unpacking_has_its_own_data() -> None:
    packed = pack(np.zeros(100_000))
    one, two = unpack(packed, shared=True), unpack(packed, shared=True)
    one[:] = 1
    assert not two.any()
    assert not unpack(packed).any()
    packed.close()


def test_no_descriptor_stays_open(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    sent = pack(np.zeros(100_000))
    send(pair[0], Kind.RESULT, 0, sent)
    sent.close()
    received = receive(pair[1])
    assert received is not None
    result = unpack(received[2])
    assert not os.get_inheritable(received[2].memory)
    received[2].close()
    assert descriptors() == before
    assert result.shape == (100_000,)


def test_the_end_of_the_other_side(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(pair[1])
    pair[0].close()
    assert receive(pair[1]) is None


def test_a_failure_to_pickle_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with pytest.raises(TypeError):
        pack(x for x in ())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parcel.os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        pack(np.zeros(100_000))
    assert descriptors() == before
