"""Ranks that are at several addresses of which some swallow what is sent to them, as behind a firewall."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator

import pytest

from .ranks import JOIN, Ranks, results

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root, and ip of iproute2"
)

_SWALLOWED = 2


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two namespaces, 10.80.0.1 and 10.80.0.2.

    Each has further addresses, to be tried before that one: what the other sends there is lost.
    """
    routes: list[tuple[str, str]] = []
    names = (f"commops-{os.getpid()}-c", f"commops-{os.getpid()}-d")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            peer = ("peer", "name", "cable", "netns", names[1])
            ip("link", "add", "cable", "netns", names[0], "type", "veth", *peer)
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        for number, (name, other) in enumerate((names, names[::-1]), 1):
            ip("-n", name, "address", "add", f"10.80.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
            for swallowed in range(_SWALLOWED):
                ip("-n", name, "address", "add", f"10.8{number}.{swallowed}.1/32", "dev", "lo")
            routes.append((other, f"10.8{number}.0.0/16"))
        # To a machine that is not there: with its hardware address given, no host can know.
        for name, network in routes:
            ip("-n", name, "neighbour", "add", "10.80.0.99", "lladdr", "02:00:00:00:00:99", "dev", "cable")
            ip("-n", name, "route", "add", network, "via", "10.80.0.99", "dev", "cable", "onlink")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.parametrize("sender", [0, 1])
def test_addresses_that_swallow_packets_do_not_hold_up_a_message(
    ranks: Ranks, hosts: tuple[str, str], sender: int
) -> None:
    source = f"""
    with comm:
        if comm.rank == {sender}:
            comm.send(np.arange(4), dest={1 - sender})
            result = comm.recv(source={1 - sender}).tolist()
        else:
            comm.send(comm.recv(source={sender}) + 1, dest={sender})
            result = None
    """
    # So patient with each address that whoever tried them one after the other would not get through in time.
    each = [{"namespace": name, "env": {"COMMOPS_HANDSHAKE_MS": "400000"}} for name in hosts]
    told = ranks.run(
        2, JOIN + textwrap.dedent(source), each, url="tcp://10.80.0.1:4078", token="t", timeout=15.0
    )
    assert results(told)[sender] == [1, 2, 3, 4]
