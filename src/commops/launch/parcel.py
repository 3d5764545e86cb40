"""Python objects as packets on a local socket, with large data beside them in unnamed memory.

An array is copied once, into a file in memory whose descriptor travels with the packet; whoever unpacks it
maps that file, so that several ranks share one copy of an argument until they write to it. Both ends are
processes of one `commops.launch`, joined by a socket pair: nothing here ever reads from a stranger.
"""

from __future__ import annotations

import array
import mmap
import os
import pickle
import socket
from enum import IntEnum
from typing import Any, NamedTuple

__all__ = ["Kind", "Parcel", "pack", "receive", "send", "unpack"]

_INLINE = 32 << 10  # bytes that travel in the packet itself; a socket takes at least 200 KiB
_PACKET = 256 << 10
_ALIGNMENT = 64  # a cache line, which NumPy's vector loops like


class Kind(IntEnum):
    """What a packet is."""

    ORDER = 0
    """To the server: `(n, transport, argv)`, and the function with its arguments."""
    RESULT = 1
    """From a rank: what the function returned."""
    ERROR = 2
    """From a rank: the exception that it raised, if that can be pickled."""
    OUTCOME = 3
    """From the server: how the ranks ended."""


class Parcel(NamedTuple):
    """A pickled object.

    Attributes
    ----------
    pieces : tuple of (int, int, bool)
        Start and stop of each piece in bytes, and whether its memory was read-only: first the pickle,
        then its out-of-band buffers.
    inline : bytes or None
        All pieces, if they are small.
    memory : int
        Otherwise the descriptor of a file that holds them; -1 if inline. Owned.
    """

    pieces: tuple[tuple[int, int, bool], ...]
    inline: bytes | None
    memory: int = -1

    def close(self) -> None:
        """Let go of the memory; what was unpacked from it stays."""
        if self.memory >= 0:
            os.close(self.memory)


def pack(value: object) -> Parcel:
    """Pickle an object, functions and classes of `__main__` by value.

    Raises
    ------
    Exception
        What pickling raises: `TypeError`, `pickle.PicklingError`, or what a ``__reduce__`` raises.
    """
    import cloudpickle  # type: ignore[import-untyped]

    buffers: list[pickle.PickleBuffer] = []
    views = [memoryview(cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append))]
    views += [buffer.raw() for buffer in buffers]
    pieces, end = [], 0
    for view in views:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + view.nbytes
        pieces.append((start, end, view.readonly))
    if end <= _INLINE:
        content = bytearray(end)
        for view, (start, stop, _) in zip(views, pieces, strict=True):
            content[start:stop] = view
        return Parcel(tuple(pieces), bytes(content))
    memory = os.memfd_create("commops-parcel")
    try:
        os.ftruncate(memory, end)
        for view, (start, stop, _) in zip(views, pieces, strict=True):
            while start < stop:  # one call writes at most 2 GiB
                start += os.pwrite(memory, view[start - stop :], start)
    except BaseException:
        os.close(memory)
        raise
    return Parcel(tuple(pieces), None, memory)


def unpack(parcel: Parcel, *, shared: bool = False) -> Any:
    """Return the object. Its arrays are writable where they were, and share no changes with anybody.

    Parameters
    ----------
    parcel : Parcel
    shared : bool
        Whether to map its memory instead of copying it. The mapping holds a descriptor as long as anything
        in it is referred to, so this is for the short lives of ranks.
    """
    if parcel.inline is not None:
        view = memoryview(bytearray(parcel.inline))
    elif shared:
        view = memoryview(mmap.mmap(parcel.memory, parcel.pieces[-1][1], flags=mmap.MAP_PRIVATE))
    else:
        view = memoryview(mmap.mmap(-1, parcel.pieces[-1][1]))
        position = 0
        while position < view.nbytes:  # one call reads at most 2 GiB
            count = os.preadv(parcel.memory, [view[position:]], position)
            if count == 0:
                raise EOFError("a parcel is shorter than its packet says")
            position += count
    content, *buffers = (
        view[start:stop].toreadonly() if readonly else view[start:stop]
        for start, stop, readonly in parcel.pieces
    )
    return pickle.loads(content, buffers=buffers)


def send(sock: socket.socket, kind: Kind, about: object, parcel: Parcel) -> None:
    """Send a parcel, and a few words about it that are pickled by the standard module."""
    packet = pickle.dumps((int(kind), about, parcel.pieces, parcel.inline))
    descriptors = array.array("i", [parcel.memory] if parcel.memory >= 0 else [])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
    sock.sendmsg([packet], rights)


def receive(sock: socket.socket) -> tuple[Kind, Any, Parcel] | None:
    """Return the next parcel with the words about it, or None when the other side has closed.

    Raises
    ------
    BlockingIOError
        If the socket does not block and nothing is there.
    """
    packet, ancillary, _, _ = sock.recvmsg(_PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    if not packet:
        return None
    memory = array.array("i", [-1])
    for _, _, data in ancillary:
        memory = array.array("i", data[:4])
    kind, about, pieces, inline = pickle.loads(packet)
    return Kind(kind), about, Parcel(pieces, inline, memory[0])
