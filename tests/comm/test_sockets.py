"""What the sockets between ranks are told of where they lead."""

from __future__ import annotations

import os
import socket

import pytest

from commops import Comm

from .layouts import Layout
from .world import World


def _controls_within_the_machine() -> list[str]:
    """Return the congestion control of each TCP connection of this process whose ends have one address."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket, or that of the listing itself
            continue
        with copy:
            try:
                own, other = copy.getsockname(), copy.getpeername()
            except OSError:  # nobody at the other end
                continue
            if copy.family in (socket.AF_INET, socket.AF_INET6) and own[0] == other[0]:
                control = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                found.append(control.rstrip(b"\0").decode())
    return found


@pytest.mark.parametrize("layout", [Layout("aa", "tcp"), Layout("ab")], ids=str)
def test_nothing_paces_connections_within_a_machine(world: World) -> None:
    def program(comm: Comm) -> list[str]:
        comm.barrier()  # makes the connection
        return _controls_within_the_machine()

    for controls in world.run(program):
        assert "reno" in controls
