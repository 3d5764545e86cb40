"""Hosts for tests: network namespaces on one switch."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import string
import subprocess
from collections.abc import Iterator, Sequence

import pytest

__all__ = ["TC", "Switch", "needs_root"]

TC = shutil.which("tc", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root, and ip of iproute2"
)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


_LETTERS = itertools.cycle(string.ascii_letters)


class Switch:
    """Namespaces with a cable each to one switch. Number i has the address 10.81.0.<i + 1>."""

    def __init__(self, count: int) -> None:
        # A name of its own each time: the kernel takes links and namespaces down behind the command's end.
        name = f"cm{os.getpid() % 100000}{next(_LETTERS)}"
        self.names = [f"{name}-{number}" for number in range(count)]
        self._switch = name
        self._ports = [f"{name}p{number}" for number in range(count)]
        try:
            run("ip", "link", "add", name, "type", "bridge")
            run("ip", "link", "set", name, "up")
            for number, (host, port) in enumerate(zip(self.names, self._ports, strict=True)):
                run("ip", "netns", "add", host)
                run("ip", "link", "add", port, "type", "veth", "peer", "name", "cable", "netns", host)
                run("ip", "link", "set", port, "master", name, "up")
                run("ip", "-n", host, "address", "add", f"10.81.0.{number + 1}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    run("ip", "-n", host, "link", "set", device, "up")
        except OSError as error:
            self.close()
            pytest.skip(f"no network namespaces here: {error}")

    def down(self, host: int) -> None:
        """Take the link of a host down, as its own system sees it."""
        run("ip", "-n", self.names[host], "link", "set", "cable", "down")

    def silence(self, host: int) -> None:
        """Drop all packets from and to a host, which sees nothing of that."""
        run("ip", "link", "set", self._ports[host], "nomaster")

    def part(self, one: int, other: int) -> None:
        """Drop all packets between two hosts, for good."""
        for host, peer in ((one, other), (other, one)):
            run("ip", "-n", self.names[host], "route", "add", "blackhole", f"10.81.0.{peer + 1}/32")

    def heal(self, host: int) -> None:
        run("ip", "link", "set", self._ports[host], "master", self._switch)
        run("ip", "-n", self.names[host], "link", "set", "cable", "up")

    def limit(self, rate: str, hosts: Sequence[int]) -> None:
        """Let the links of these hosts carry no more than that, in each direction."""
        shape = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "200ms"]
        for host in hosts:
            run(TC or "tc", "qdisc", "add", "dev", self._ports[host], *shape)
            run("ip", "netns", "exec", self.names[host], TC or "tc", "qdisc", "add", "dev", "cable", *shape)

    def close(self) -> None:
        for port in (*self._ports, self._switch):
            subprocess.run(["ip", "link", "delete", port], capture_output=True, check=False)
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextlib.contextmanager
def switch(count: int) -> Iterator[Switch]:
    made = Switch(count)
    try:
        yield made
    finally:
        made.close()
