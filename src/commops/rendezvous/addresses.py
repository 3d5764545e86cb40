"""Where ranks listen for each other, from what the kernel knows and without looking up any name.

``COMMOPS_INTERFACE`` says which of this machine's addresses are used:

=====================  =================================================================================
``loopback``           127.0.0.1 and ::1: only ranks of this machine are reached
``any``                every address but those of loopback and link-local ones
an interface's name    the addresses of that interface, such as ``eth0``
an address             that one, such as ``10.0.0.3`` or ``fd00::3``
a network              the addresses that lie in it, such as ``10.0.0.0/8``: may be set alike on all hosts
=====================  =================================================================================

Where it is not set, ranks that meet at a ``tcp:`` or ``redis:`` address other than loopback's use ``any``,
and all others ``loopback``: nothing is opened to other machines that was not asked for. Whatever other
machines can reach needs a token.

``COMMOPS_HOST`` is a name for this machine. Ranks that differ in it count as on different hosts and share no
memory, so that several hosts can be tried out on one machine.
"""

from __future__ import annotations

import array
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from typing import TypeAlias

from commops.errors import RendezvousError

__all__ = ["choose", "host_name", "listen", "local_addresses", "machine_addresses", "machine_key"]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOOPBACK = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
_BACKLOG = 4096
_SIOCGIFCONF = 0x8912
_IFREQ = struct.calcsize("@16sLLHBBB0L")  # struct ifreq, whose longest member is a struct ifmap
_SWITCHED_OFF = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _text_of(path: str) -> str:
    """Read a file. Not by pathlib, whose import is a tenth of what a rank's start may take."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def machine_key() -> str:
    """Return a string that is equal for two processes if and only if they can share memory and Unix sockets.

    It names the running kernel, and the network namespace, in which abstract Unix sockets live.
    """
    boot = _text_of("/proc/sys/kernel/random/boot_id").strip()
    return f"{boot}.{os.stat('/proc/self/ns/net').st_ino}"


def host_name() -> str:
    """Return this host's name: ``COMMOPS_HOST``, or what the kernel calls the machine."""
    return os.environ.get("COMMOPS_HOST") or socket.gethostname()


def machine_addresses() -> list[tuple[str, Address]]:
    """Return the name and address of every interface, IPv4 before IPv6."""
    return _ipv4() + _ipv6()


def _ipv4() -> list[tuple[str, Address]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        room = 64
        while True:
            table = array.array("B", bytes(room * _IFREQ))
            start, length = table.buffer_info()
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, struct.pack("@iP", length, start))
            used: int = struct.unpack("@iP", answer)[0]
            if used < length:
                break
            room *= 2  # the kernel fills what there is and does not say that more would have come
    found: list[tuple[str, Address]] = []
    for at in range(0, used, _IFREQ):
        label = bytes(table[at : at + 16]).partition(b"\0")[0].decode(errors="replace")
        name = label.partition(":")[0]  # a second address may be labelled "eth0:1"
        found.append((name, ipaddress.IPv4Address(bytes(table[at + 20 : at + 24]))))
    return found


def _ipv6() -> list[tuple[str, Address]]:
    try:
        lines = _text_of("/proc/net/if_inet6").splitlines()
    except OSError:  # a kernel without IPv6
        return []
    rows = (line.split() for line in lines)
    return [(row[5], ipaddress.IPv6Address(int(row[0], 16))) for row in rows]


def local_addresses() -> list[str]:
    """Return the addresses at which other machines may reach this one: no loopback and no link-local ones."""
    return [str(address) for _, address in machine_addresses() if _is_outward(address)]


def _is_outward(address: Address) -> bool:
    return not (address.is_loopback or address.is_link_local)


def choose(interface: str) -> list[Address]:
    """Return the addresses that a value of ``COMMOPS_INTERFACE`` means here, in the order to be tried.

    Raises
    ------
    RendezvousError
        If this machine has none of the kind.
    """
    if interface == "loopback":
        return list(_LOOPBACK)
    network = _network(interface)
    everything = machine_addresses()
    if interface == "any":
        chosen = [address for _, address in everything if _is_outward(address)]
    elif network is not None:
        chosen = [address for _, address in everything if address in network]
    else:
        chosen = [address for name, address in everything if name == interface]
    chosen = [address for address in chosen if not address.is_link_local]
    if not chosen:
        shown = ", ".join(f"{name} {address}" for name, address in everything)
        raise RendezvousError(
            f"COMMOPS_INTERFACE={interface} fits no address of this machine, which has: {shown or 'none'}. It"
            " may be loopback, any, the name of an interface, an address or a network such as 10.0.0.0/8"
        )
    return chosen


def _network(interface: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(interface, strict=False)
    except ValueError:
        return None


def listen(chosen: list[Address]) -> tuple[list[socket.socket], str]:
    """Listen at each of the addresses, on any free port.

    Returns
    -------
    list of socket
        The caller's to close.
    str
        ``address:port`` of each, separated by blanks.

    Raises
    ------
    RendezvousError
        If none of them can be listened at.
    """
    sockets: list[socket.socket] = []
    places: list[str] = []
    try:
        for address in chosen:
            listener = _listener(address)
            if listener is None:
                continue
            sockets.append(listener)
            port = listener.getsockname()[1]
            places.append(f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}")
        if not sockets:
            raise RendezvousError(
                f"none of this machine's addresses can be listened at: {', '.join(map(str, chosen))}"
            )
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets, " ".join(places)


def _listener(address: Address) -> socket.socket | None:
    """Return a listening socket, or None where the address is not in use at present."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        listener = socket.create_server((str(address), 0), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno in _SWITCHED_OFF:  # IPv6 without ::1, or an address that is still being claimed
            return None
        raise RendezvousError(f"cannot listen at {address}: {error}") from error
    listener.setblocking(False)
    return listener
