"""The bytes between a client and the server of a socket store, after both have proved the token.

A client sends one request, the server answers it with one reply, and so on. Both are one frame, in network
byte order:

      0       1           4             8               16               24
      +-------+-----------+-------------+---------------+----------------+-----------------
      | kind  | zero      | fields      | number        | body length    | body …
      | uint8 | 3 bytes   | uint32      | int64         | uint64         |
      +-------+-----------+-------------+---------------+----------------+-----------------

and the body is `fields` times

      0               8                 8 + n
      +---------------+-----------------+
      | n, uint64     | n bytes         |
      +---------------+-----------------+

| request         | number               | fields                | replies                      |
|-----------------|----------------------|-----------------------|------------------------------|
| SET             | 0                    | key, value            | DONE                         |
| GET             | time-out, ns         | key                   | VALUE, or MISSING at time-out|
| ADD             | amount               | key                   | DONE (sum), or REFUSED       |
| WAIT            | time-out, ns         | keys                  | DONE, or MISSING at time-out |
| DELETE          | 0                    | keys                  | DONE (how many existed)      |
| COUNT           | 0                    | prefix                | DONE (how many keys)         |
| COMPARE_AND_SET | 0                    | key, value [expected] | VALUE                        |
| BEQUEATH        | 0                    | key [value]           | DONE                         |
| STRANGERS       | 0                    | none                  | VALUE (whom it has refused)  |

| reply   | number | fields                                                              |
|---------|--------|---------------------------------------------------------------------|
| DONE    | result | none                                                                |
| VALUE   | 0      | the value, or none where the key does not exist                     |
| MISSING | 0      | the keys that do not exist                                          |
| REFUSED | 0      | why the arguments do not go with what is stored, in UTF-8            |

`parse` holds each frame to its row, lengths included, before it waits for the body; so a peer can make the
other side keep at most one largest frame.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from commops.errors import RendezvousError
from commops.rendezvous.store import MAX_KEY, MAX_VALUE

__all__ = ["MAX_KEYS", "Kind", "Message", "ProtocolError", "encode", "parse"]

MAX_KEYS = 1 << 16
"""Most keys that one WAIT or DELETE may name."""

_MAX_KEYS_BODY = 64 << 20
_HEADER = struct.Struct("!B3sIqQ")
_LENGTH = struct.Struct("!Q")
_SIGNED = range(-(1 << 63), 1 << 63)
_COUNTED = range(1 << 63)
_ZERO = range(1)


class ProtocolError(RendezvousError):
    """The other side sent bytes that are no frame of a store."""


class Kind(enum.IntEnum):
    """What a frame asks or answers. The values are on the wire."""

    SET = 1
    GET = 2
    ADD = 3
    WAIT = 4
    DELETE = 5
    COUNT = 6
    COMPARE_AND_SET = 7
    BEQUEATH = 8
    STRANGERS = 9
    DONE = 64
    VALUE = 65
    MISSING = 66
    REFUSED = 67


class Message(NamedTuple):
    """One frame: its kind, its number and its fields, as the tables above have them."""

    kind: Kind
    number: int = 0
    fields: tuple[bytes, ...] = ()


class _Row:
    """What a kind of frame may hold: the range of its number, how many fields, how long each and all."""

    __slots__ = ("body", "counts", "limits", "numbers")

    def __init__(self, numbers: range, counts: range, limits: Sequence[int], body: int | None = None) -> None:
        self.numbers = numbers
        self.counts = counts
        self.limits = limits
        self.body = sum(limits) + _LENGTH.size * len(limits) if body is None else body

    def limit(self, position: int) -> int:
        """Return how long the field at `position` may be; the last limit holds for all further ones."""
        return self.limits[min(position, len(self.limits) - 1)]


def _exactly(*limits: int) -> tuple[range, tuple[int, ...]]:
    return range(len(limits), len(limits) + 1), limits


_ROWS = {
    Kind.SET: _Row(_ZERO, *_exactly(MAX_KEY, MAX_VALUE)),
    Kind.GET: _Row(_COUNTED, *_exactly(MAX_KEY)),
    Kind.ADD: _Row(_SIGNED, *_exactly(MAX_KEY)),
    Kind.WAIT: _Row(_COUNTED, range(MAX_KEYS + 1), (MAX_KEY,), _MAX_KEYS_BODY),
    Kind.DELETE: _Row(_ZERO, range(1, MAX_KEYS + 1), (MAX_KEY,), _MAX_KEYS_BODY),
    Kind.COUNT: _Row(_ZERO, *_exactly(MAX_KEY)),
    Kind.COMPARE_AND_SET: _Row(_ZERO, range(2, 4), (MAX_KEY, MAX_VALUE, MAX_VALUE)),
    Kind.BEQUEATH: _Row(_ZERO, range(1, 3), (MAX_KEY, MAX_VALUE)),
    Kind.STRANGERS: _Row(_ZERO, range(1), ()),
    Kind.DONE: _Row(_SIGNED, range(1), ()),
    Kind.VALUE: _Row(_ZERO, range(2), (MAX_VALUE,)),
    Kind.MISSING: _Row(_ZERO, range(MAX_KEYS + 1), (MAX_KEY,), _MAX_KEYS_BODY),
    Kind.REFUSED: _Row(_ZERO, *_exactly(MAX_KEY)),
}


def encode(message: Message) -> bytes:
    """Return the frame of a message.

    Raises
    ------
    ValueError
        If the message holds more than its kind may (a `wait` for too many keys, say).
    """
    row = _ROWS[message.kind]
    body = sum(map(len, message.fields)) + _LENGTH.size * len(message.fields)
    complaint = _head_complaint(message.kind, row, message.number, len(message.fields), body)
    if complaint is None:
        for position, field in enumerate(message.fields):
            complaint = complaint or _field_complaint(message.kind, row, position, len(field))
    if complaint is not None:
        raise ValueError(complaint)
    parts = [_HEADER.pack(message.kind, b"\0\0\0", len(message.fields), message.number, body)]
    for field in message.fields:
        parts += _LENGTH.pack(len(field)), field
    return b"".join(parts)


def parse(buffer: bytes | bytearray | memoryview) -> tuple[Message, int] | None:
    """Read the frame that `buffer` begins with. A pure function.

    Parameters
    ----------
    buffer : bytes-like
        What has arrived so far.

    Returns
    -------
    (Message, int) or None
        The message and how many bytes it took, or None while the frame is incomplete.

    Raises
    ------
    ProtocolError
        If no continuation can make `buffer` a frame.
    """
    if len(buffer) < _HEADER.size:
        return None
    number_of_kind, zero, count, number, body = _HEADER.unpack_from(buffer)
    try:
        kind = Kind(number_of_kind)
    except ValueError:
        raise ProtocolError(f"no kind of frame has the number {number_of_kind}") from None
    if any(zero):
        raise ProtocolError("bytes 1 to 3 of a frame are not zero")
    row = _ROWS[kind]
    complaint = _head_complaint(kind, row, number, count, body)
    if complaint is not None:
        raise ProtocolError(complaint)
    end = _HEADER.size + body
    if len(buffer) < end:
        return None
    with memoryview(buffer) as view:
        return Message(kind, number, _split(kind, row, view[_HEADER.size : end], count)), end


def _split(kind: Kind, row: _Row, body: memoryview, count: int) -> tuple[bytes, ...]:
    fields = []
    at = 0
    with body:
        for position in range(count):
            start = at + _LENGTH.size
            if start > len(body):
                raise ProtocolError(f"{kind.name}: field {position} begins beyond the body")
            (length,) = _LENGTH.unpack_from(body, at)
            complaint = _field_complaint(kind, row, position, length)
            if complaint is not None:
                raise ProtocolError(complaint)
            at = start + length
            if at > len(body):
                raise ProtocolError(f"{kind.name}: field {position} ends beyond the body")
            fields.append(bytes(body[start:at]))
        if at != len(body):
            raise ProtocolError(f"{kind.name}: {len(body) - at} bytes of the body belong to no field")
    return tuple(fields)


def _head_complaint(kind: Kind, row: _Row, number: int, count: int, body: int) -> str | None:
    if number not in row.numbers:
        return f"{kind.name}: the number {number} is out of range"
    if count not in row.counts:
        return f"{kind.name}: {count} fields; it has {row.counts.start} to {row.counts.stop - 1}"
    if not _LENGTH.size * count <= body <= row.body:
        return f"{kind.name}: a body of {body} bytes for {count} fields; the most is {row.body}"
    return None


def _field_complaint(kind: Kind, row: _Row, position: int, length: int) -> str | None:
    limit = row.limit(position)
    if length <= limit:
        return None
    return f"{kind.name}: field {position} has {length} bytes; the most is {limit}"
