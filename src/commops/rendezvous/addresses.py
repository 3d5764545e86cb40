"""This machine's addresses, from the kernel and without looking up any name."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

__all__ = ["host_key", "listen", "local_addresses"]

_SIOCGIFADDR = 0x8915


def host_key() -> str:
    """Return a string that is equal for two processes if and only if they can share memory and Unix sockets.

    It names the running kernel and the network namespace (in which abstract Unix sockets live), and
    ``COMMOPS_HOST``, by which tests make several hosts of one.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.stat("/proc/self/ns/net").st_ino
    return f"{os.environ.get('COMMOPS_HOST', '')}|{boot}|{namespace}"


def local_addresses() -> list[str]:
    """Return the numeric addresses of all interfaces but loopback, IPv4 before IPv6, link-local ones left out."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # an interface without an IPv4 address
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # a kernel without IPv6
        lines = []
    found += [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines]
    usable = (ipaddress.ip_address(address) for address in found)
    return [str(a) for a in usable if not (a.is_loopback or a.is_link_local)]


def listen(*, loopback: bool) -> tuple[list[socket.socket], list[str]]:
    """Return listening sockets, and the addresses at which peers reach them.

    Parameters
    ----------
    loopback : bool
        Listen on 127.0.0.1 and ::1 only. Otherwise on all of this machine's addresses but these.
    """
    hosts = ["127.0.0.1", "::1"] if loopback else local_addresses()
    sockets, addresses = [], []
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, 0), family=family, backlog=1024)
        except OSError:  # an address of a family that is switched off
            continue
        listener.setblocking(False)
        port = listener.getsockname()[1]
        sockets.append(listener)
        addresses.append(f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}")
    if not sockets:
        raise OSError("no address to listen on: " + (", ".join(hosts) or "only loopback is there"))
    return sockets, addresses
