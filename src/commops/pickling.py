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

import io
import pickle
import struct
from typing import Any

import numpy as np

from commops.dtypes import Array

__all__ = ["pack", "unpack"]

_ALIGNMENT = 64
_PADDING = bytes(_ALIGNMENT)
_JOINED = 16 << 10
# NumPy has one object for each of these, so that metadata or another byte order are told by it.
_CODES = {id(np.dtype(code)): code for code in "?bhilqBHILQefdFD"}


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
    body, views = _pickled(obj, name)
    head = struct.pack(f"<{2 + len(views)}Q", len(views), len(body), *(view.nbytes for view in views))
    start = len(head) + len(body)
    size = _aligned(start) + sum(_aligned(view.nbytes) for view in views)
    if size <= _JOINED:  # a call for each part costs more than their bytes
        parts: list[Any] = [head, body, _PADDING[: -start % _ALIGNMENT]]
        for view in views:
            parts += view, _PADDING[: -view.nbytes % _ALIGNMENT]
        return np.frombuffer(bytearray().join(parts), np.uint8)
    packed = np.empty(size, np.uint8)
    memory = packed.data
    memory[: len(head)] = head
    memory[len(head) : start] = body
    at = _aligned(start)
    for view in views:
        memory[at : at + view.nbytes] = view
        at += _aligned(view.nbytes)
    return packed


def _pickled(obj: object, name: str) -> tuple[memoryview, list[memoryview]]:
    """Return the pickle of an object, and the buffers that are beside it."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    try:
        _Pickler(file, 5, buffer_callback=buffers.append).dump(obj)
        return file.getbuffer(), [buffer.raw() for buffer in buffers]
    except (pickle.PicklingError, AttributeError, TypeError, BufferError) as error:
        # pickle has no one error for this: a lambda, a lock and a local class each give another.
        raise TypeError(f"{name} must be an object that can be pickled: {error}") from error


class _Pickler(pickle.Pickler):
    """Pickles plain arrays in half of NumPy's own time, which goes into finding functions and describing dtypes."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray:
            return NotImplemented
        code = _CODES.get(id(obj.dtype))
        if code is None or not obj.flags.c_contiguous:
            return NotImplemented
        return _array, (pickle.PickleBuffer(obj), code, obj.shape)


def _array(buffer: Any, code: str, shape: tuple[int, ...]) -> Array:
    """Make the array that a `_Pickler` has taken apart."""
    return np.ndarray(shape, code, buffer)


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
