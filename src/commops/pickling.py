"""Python objects as bytes and back: pickle protocol 5, with large buffers beside the pickle instead of in it.

A packed object is one array of bytes::

    0           8                        16 + 8·n
    +-----------+-----------+------------+--------+---------+----------+----
    | n buffers | pickle's  | length of  | pickle | padding | buffer 0 | …
    | uint64    | length    | each       |        | to 64   |          |
    +-----------+-----------+------------+--------+---------+----------+----

Buffers start at multiples of 64 bytes, and arrays made from them look straight into the received bytes.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np

from commops.dtypes import Array

__all__ = ["pack", "unpack"]

_ALIGNMENT = 64


def _aligned(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT


def pack(obj: object, name: str = "obj") -> Array:
    """Return the bytes of an object, an array of uint8.

    Parameters
    ----------
    obj : object
    name : str
        What the caller knows it by.

    Raises
    ------
    TypeError
        If the object, or something in it, is none that pickle takes.
    Exception
        Whatever the object's own ``__reduce__`` raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
    except (pickle.PicklingError, AttributeError, TypeError, BufferError) as error:
        # pickle has no one error for this: a lambda, a lock and a local class each give another.
        raise TypeError(f"{name} must be an object that can be pickled: {error}") from error
    head = struct.pack(f"<{2 + len(views)}Q", len(views), len(body), *(view.nbytes for view in views))
    size = _aligned(len(head) + len(body)) + sum(_aligned(view.nbytes) for view in views)
    packed = np.empty(size, np.uint8)
    memory = packed.data
    memory[: len(head)] = head
    memory[len(head) : len(head) + len(body)] = body
    at = _aligned(len(head) + len(body))
    for view in views:
        memory[at : at + view.nbytes] = view
        at += _aligned(view.nbytes)
    return packed


def unpack(packed: Array) -> Any:
    """Return the object that `pack` made these bytes from. Its arrays keep `packed` alive and are writable.

    Raises
    ------
    ValueError
        If the bytes are none that `pack` made.
    """
    memory = packed.data
    try:
        count, length = struct.unpack_from("<2Q", memory)
        sizes = struct.unpack_from(f"<{count}Q", memory, 16)
    except struct.error as error:
        raise ValueError(f"{packed.nbytes} bytes that are no packed object") from error
    start = 16 + 8 * count
    at = _aligned(start + length)
    buffers = []
    for size in sizes:
        buffers.append(memory[at : at + size])
        at += _aligned(size)
    return pickle.loads(memory[start : start + length], buffers=buffers)
