"""The table itself, without waiting or locking: what the stores that hold it in memory do to it."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Table", "counter_after"]

# Redis reads a counter this strictly: no sign of plus, no leading zero, no space. So do the other stores.
_DECIMAL = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_INT64 = range(-(1 << 63), 1 << 63)


def counter_after(value: bytes | None, amount: int) -> int:
    """Return what a counter becomes when `amount` is added to `value` (None: no value yet, 0).

    Raises
    ------
    ValueError
        If `value` is no decimal integer, or the sum leaves the range of a signed 64-bit integer.
    """
    if value is None:
        value = b"0"
    if not _DECIMAL.fullmatch(value) or int(value) not in _INT64:
        shown = repr(value[:32]) + ("…" if len(value) > 32 else "")
        raise ValueError(f"add: the value is no decimal integer of 64 bits: {shown}")
    total = int(value) + amount
    if total not in _INT64:
        raise ValueError(f"add: {int(value)} + {amount} leaves the range of a signed 64-bit integer")
    return total


class Table:
    """Keys and values, both bytes. Not safe to share between threads: its owner has the lock."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def set(self, key: bytes, value: bytes) -> None:
        """Store `value` under `key`."""
        self._values[key] = value

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, None where there is none."""
        return self._values.get(key)

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of `keys` that do not exist, in their order."""
        return [key for key in keys if key not in self._values]

    def add(self, key: bytes, amount: int) -> int:
        """Add to a counter and return its new value; ValueError as `counter_after`."""
        total = counter_after(self._values.get(key), amount)
        self._values[key] = b"%d" % total
        return total

    def delete(self, key: bytes) -> bool:
        """Remove `key`, and say whether it was there."""
        return self._values.pop(key, None) is not None

    def count(self, prefix: bytes) -> int:
        """Return how many keys begin with `prefix`."""
        if not prefix:
            return len(self._values)
        return sum(key.startswith(prefix) for key in self._values)

    def compare_and_set(self, key: bytes, expected: bytes | None, value: bytes) -> bytes | None:
        """Store `value` if the value there is `expected` (None: no key); return what is there afterwards."""
        if self._values.get(key) == expected:
            self._values[key] = value
        return self._values.get(key)
