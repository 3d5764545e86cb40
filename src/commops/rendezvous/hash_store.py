"""A store within one process, for ranks that are threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from commops.rendezvous.deadline import DEFAULT_TIMEOUT, Deadline
from commops.rendezvous.store import Store, decode_key, encode_key
from commops.rendezvous.table import Table

__all__ = ["HashStore"]


class HashStore(Store):
    """A table in this process's memory. All ranks, which are threads, hold the same object.

    A waiting call sleeps on a condition and is woken by the call that makes its key. `close` closes the store
    for all who hold it.

    Parameters
    ----------
    timeout : float
        Default time-out of each call, in seconds.
    """

    def __init__(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(timeout=timeout)
        self._table = Table()
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        return "HashStore()"

    def _set(self, key: str, value: bytes, deadline: Deadline) -> None:
        with self._changed:
            self._table.set(encode_key(key), value)
            self._changed.notify_all()

    def _get(self, key: str, deadline: Deadline) -> bytes | None:
        name = encode_key(key)
        with self._changed:
            self._await((name,), deadline)
            return self._table.get(name)

    def _add(self, key: str, amount: int, deadline: Deadline) -> int:
        with self._changed:
            total = self._table.add(encode_key(key), amount)
            self._changed.notify_all()
        return total

    def _wait(self, keys: tuple[str, ...], deadline: Deadline) -> Sequence[str]:
        with self._changed:
            return [decode_key(name) for name in self._await(tuple(map(encode_key, keys)), deadline)]

    def _delete(self, key: str, deadline: Deadline) -> bool:
        with self._changed:
            return self._table.delete(encode_key(key))

    def _count(self, prefix: str, deadline: Deadline) -> int:
        with self._changed:
            return self._table.count(encode_key(prefix))

    def _compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline
    ) -> bytes | None:
        with self._changed:
            stored = self._table.compare_and_set(encode_key(key), expected, value)
            self._changed.notify_all()
        return stored

    def _close(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _await(self, names: tuple[bytes, ...], deadline: Deadline) -> list[bytes]:
        """Wait, with the lock held, until all names exist; return those that do not at the deadline."""
        while missing := self._table.missing(names):
            left = deadline.remaining()
            if left <= 0.0:
                break
            self._changed.wait(left)
            self._check_open()
        return missing
