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

from commops._core import messages as core
from commops.dtypes import Array

__all__ = ["pack", "pack_parts", "unpack"]

_ALIGNMENT = 64
_JOINED = 64 << 10  # bytes that cost less to copy than to send in parts
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
    return core.joined(_parts(obj, name), _ALIGNMENT)


def pack_parts(obj: object) -> Array | list[Any]:
    """Do the same as `pack`, but leave a large object in parts, some of which are its own buffers.

    Returns
    -------
    ndarray, or list of buffers
        What joined together are the bytes of the object. None of the buffers is empty.
    """
    parts = _parts(obj, "obj")
    if sum(map(len, parts)) <= _JOINED:
        return core.joined(parts, _ALIGNMENT)
    head, body, *views = parts
    apart = [head, body, bytes(-(len(head) + len(body)) % _ALIGNMENT)]
    for view in views:
        apart += view, bytes(-len(view) % _ALIGNMENT)
    return [part for part in apart if len(part)]


def _parts(obj: object, name: str) -> list[Any]:
    """Return the head, the pickle and the buffers beside it."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    try:
        _Pickler(file, 5, buffer_callback=buffers.append).dump(obj)
        views = [buffer.raw() for buffer in buffers]
    except (pickle.PicklingError, AttributeError, TypeError, BufferError) as error:
        # pickle has no one error for this: a lambda, a lock and a local class each give another.
        raise TypeError(f"{name} must be an object that can be pickled: {error}") from error
    body = file.getbuffer()
    head = struct.pack(f"<{2 + len(views)}Q", len(views), len(body), *map(len, views))
    return [head, body, *views]


class _Pickler(pickle.Pickler):
    """Pickles plain arrays in half of NumPy's own time, which goes into functions' names and dtypes."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray:
            return NotImplemented
        code = _CODES.get(id(obj.dtype))
        if code is None or not obj.flags.c_contiguous:
            return NotImplemented
        return _array, (pickle.PickleBuffer(obj), code, obj.shape)  # type: ignore[arg-type]


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
