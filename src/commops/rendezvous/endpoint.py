"""Where the server of a socket store listens and its clients connect: TCP, or a name within one host."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from commops.errors import RendezvousError
from commops.rendezvous.deadline import Deadline

__all__ = ["Endpoint", "TCPEndpoint", "UnixEndpoint", "is_own_user"]

# What getaddrinfo returns: family, kind, protocol, canonical name, and an address as that family has it.
_Found: TypeAlias = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]

_BACKLOG = 4096  # a rank must not have to knock twice because strangers came before it
_UNIX_NAME = b"\0commops:"  # the leading zero byte makes the name abstract: it vanishes with its socket
_UCRED = struct.Struct("3i")
_LONGEST_UNIX_NAME = 107 - len(_UNIX_NAME)

# A connection whose other host has vanished without a word is found dead 10 + 3·5 seconds later.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class Endpoint(ABC):
    """An address, and how to make sockets for it."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address as `open_store` reads it."""

    @abstractmethod
    def listen(self, *, authenticated: bool) -> socket.socket:
        """Return a listening socket.

        Raises
        ------
        RendezvousError
            If the address is taken or not this host's, or if strangers could reach it and peers are not
            `authenticated`.
        """

    @abstractmethod
    def connect(self, deadline: Deadline) -> socket.socket:
        """Return a connected socket; OSError where that fails."""

    def bound(self, listener: socket.socket) -> Endpoint:
        """Return the endpoint that clients on this host reach `listener` at."""
        return self

    @abstractmethod
    def prepare(self, connection: socket.socket) -> None:
        """Set the options of a connection, on either side."""

    def trusts(self, connection: socket.socket) -> bool:
        """Say whether the kernel's word on who is at the other end, if it gives one, is acceptable."""
        return True

    @abstractmethod
    def peer(self, connection: socket.socket) -> str:
        """Name who is at the other end, for people."""


class TCPEndpoint(Endpoint):
    """A host name or address, IPv4 or IPv6, and a port."""

    def __init__(self, host: str, port: int) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {port}")
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """The address as `open_store` reads it."""
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    def listen(self, *, authenticated: bool) -> socket.socket:
        """Return a listening socket at the first of the host's addresses that can be bound.

        A machine may know its own name as an address of loopback only (127.0.1.1 on Debian), where others
        find a real one. So where that is what `host` is, it listens at every address.
        """
        try:
            found = self._resolve(self.host)
            if authenticated and self._is_own_name() and any(_is_loopback(address) for *_, address in found):
                found = [*self._resolve("::"), *self._resolve("0.0.0.0")]
        except OSError as error:
            raise RendezvousError(f"cannot serve a store at {self.url}: {error}") from error
        if not authenticated:
            self._refuse_strangers(found)
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            try:
                return self._bind(family, kind, protocol, address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise RendezvousError(
                        f"cannot serve a store at {self.url}: port {self.port} is in use on {self.host}; "
                        "end the program that holds it, name another port, or port 0 for a free one"
                    ) from error
                failure = error
        raise RendezvousError(
            f"cannot serve a store at {self.url}: {failure}; the host must be an address of this machine"
        ) from failure

    def connect(self, deadline: Deadline) -> socket.socket:
        """Return a socket connected to the first of the host's addresses that answers."""
        failure: OSError | None = None
        for family, kind, protocol, _, address in self._resolve(self.host):
            try:
                connection = socket.socket(family, kind, protocol)
            except OSError as error:  # a host without IPv6, say
                failure = error.with_traceback(None)  # which would hold this frame, with its callers
                continue
            try:
                connection.settimeout(max(deadline.remaining(), 0.001))
                connection.connect(address)
                # Where nobody listens on a port of the range that clients draw from, TCP may connect a
                # socket to itself, and would then keep the server from binding.
                if connection.getsockname() == connection.getpeername():
                    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
                self.prepare(connection)
                return connection
            except OSError as error:
                connection.close()
                failure = error.with_traceback(None)
            except BaseException:
                connection.close()
                raise
        raise failure or OSError(f"{self.host} has no address")

    def bound(self, listener: socket.socket) -> TCPEndpoint:
        """Return this endpoint with the port that `listener` really has."""
        return TCPEndpoint(self.host, listener.getsockname()[1])

    def prepare(self, connection: socket.socket) -> None:
        """Send small frames at once, and find out about vanished hosts."""
        for level, option, value in _KEEPALIVE:
            connection.setsockopt(level, option, value)

    def peer(self, connection: socket.socket) -> str:
        """Return the other end's address."""
        return str(connection.getpeername()[0])

    def _resolve(self, host: str) -> _Found:
        # As bytes, a name in ASCII spares the import of everything that international names need.
        name = host.encode() if host.isascii() else host
        return socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)

    def _is_own_name(self) -> bool:
        """Say whether `host` is what this machine is called, with its domain or without."""
        short, own = (name.partition(".")[0].lower() for name in (self.host, socket.gethostname()))
        return short == own != "localhost" and not short.isdecimal()

    def _refuse_strangers(self, found: _Found) -> None:
        for *_, address in found:
            if not _is_loopback(address):
                raise RendezvousError(
                    f"a store at {self.url} can be reached from other machines, so it needs a token: set "
                    "COMMOPS_TOKEN or COMMOPS_TOKEN_FILE to the same secret for every rank, "
                    "or serve on 127.0.0.1"
                )

    def _bind(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket:
        listener = socket.socket(family, kind, protocol)
        try:
            # On Linux this shares no port between listeners; it only spares the minute that a port of an
            # ended job rests.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                wildcard = ipaddress.ip_address(address[0]).is_unspecified
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if wildcard else 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener


def _is_loopback(address: Any) -> bool:
    return ipaddress.ip_address(address[0]).is_loopback


class UnixEndpoint(Endpoint):
    """A name in the kernel's abstract socket namespace: within one host, nothing in any folder.

    Both ends ask the kernel who the other is (``SO_PEERCRED``) and accept only their own user and root. A
    process of either could do anything to this one anyway, so no token is needed.
    """

    def __init__(self, name: str) -> None:
        encoded = name.encode("utf-8", "surrogatepass")
        if not encoded or len(encoded) > _LONGEST_UNIX_NAME:
            raise ValueError(
                f"the name of a unix: store must have 1 to {_LONGEST_UNIX_NAME} bytes of UTF-8, "
                f"not {len(encoded)}: {name!r}"
            )
        self.name = name
        self._address = _UNIX_NAME + encoded

    @property
    def url(self) -> str:
        """The address as `open_store` reads it."""
        return f"unix:{self.name}"

    def listen(self, *, authenticated: bool) -> socket.socket:
        """Return a listening socket. The kernel authenticates, so a token changes nothing here."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._address)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            reason = "the name is taken; choose another" if error.errno == errno.EADDRINUSE else error
            raise RendezvousError(f"cannot serve a store at {self.url}: {reason}") from error
        return listener

    def connect(self, deadline: Deadline) -> socket.socket:
        """Return a connected socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(deadline.remaining(), 0.001))
            connection.connect(self._address)
        except BaseException:
            connection.close()
            raise
        return connection

    def prepare(self, connection: socket.socket) -> None:
        """Set nothing: the kernel itself knows when the other end is gone."""

    def trusts(self, connection: socket.socket) -> bool:
        """Say whether the other end runs as this process's user or as root."""
        return is_own_user(connection)

    def peer(self, connection: socket.socket) -> str:
        """Return the other end's process id."""
        return f"process {_credentials(connection)[0]}"


def is_own_user(connection: socket.socket) -> bool:
    """Say whether the process at the other end of a Unix socket runs as this one's user or as root.

    What the kernel reports is the user at the moment of ``connect`` or ``listen``.
    """
    return _credentials(connection)[1] in (0, os.geteuid())


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return the process, the user and the group at the other end of a Unix socket."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    process, user, group = _UCRED.unpack(packed)
    return process, user, group
