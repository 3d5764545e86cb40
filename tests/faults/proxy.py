"""A man in the middle: stands before a rank's listening sockets, and spoils what passes through."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from commops.rendezvous import addresses

Spoil = Callable[[socket.socket, bytes], bool]
"""Given where to send and what, sends it in some way; False ends the connection."""

_RESET = struct.pack("ii", 1, 0)


def interpose(spoil: Spoil) -> None:
    """Have this process, which is about to become a rank, publish the proxy's addresses and not its own."""
    listen = addresses.listen

    def listen_behind(chosen: Any) -> tuple[list[socket.socket], str]:
        listeners, places = listen(chosen)
        return listeners, " ".join(_front(place, spoil) for place in places.split())

    addresses.listen = listen_behind


def bytewise(to: socket.socket, data: bytes) -> bool:
    """Send in pieces of a byte or a few."""
    at = 0
    while at < len(data):
        step = random.choice((1, 1, 1, 2, 7))
        to.sendall(data[at : at + step])
        at += step
    return True


def resetting(after: int) -> Spoil:
    """Pass so many bytes of a connection, in either direction, then reset it, whatever is under way."""
    passed: dict[int, int] = {}

    def spoil(to: socket.socket, data: bytes) -> bool:
        left = after - passed.get(to.fileno(), 0)
        to.sendall(data[: max(left, 0)])
        passed[to.fileno()] = passed.get(to.fileno(), 0) + len(data)
        return passed[to.fileno()] <= after

    return spoil


def _front(place: str, spoil: Spoil) -> str:
    host, _, port = place.rpartition(":")
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    server = socket.create_server((name, 0), family=family)
    threading.Thread(target=_serve, args=(server, (name, int(port)), spoil), daemon=True).start()
    return f"{host}:{server.getsockname()[1]}"


def _serve(server: socket.socket, behind: tuple[str, int], spoil: Spoil) -> None:
    while True:
        client, _ = server.accept()
        try:
            rank = socket.create_connection(behind)
        except OSError:
            client.close()
            continue
        for sock in (client, rank):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_pass, args=(client, rank, spoil), daemon=True).start()


def _pass(client: socket.socket, rank: socket.socket, spoil: Spoil) -> None:
    to = {client: rank, rank: client}
    try:
        while to:
            for sock in select.select(list(to), [], [])[0]:
                data = sock.recv(1 << 14)
                if not data:
                    to[sock].shutdown(socket.SHUT_WR)
                    del to[sock]
                elif not spoil(client if sock is rank else rank, data):
                    for end in (client, rank):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
    except (OSError, KeyError):
        pass
    finally:
        client.close()
        rank.close()
