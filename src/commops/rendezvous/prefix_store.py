"""A part of another store, under a prefix of its own."""

from __future__ import annotations

from collections.abc import Sequence

from commops.rendezvous.deadline import Deadline
from commops.rendezvous.store import Store

__all__ = ["PrefixStore"]


class PrefixStore(Store):
    """The keys of `store` that begin with ``prefix/``, seen without it.

    Prefixes nest as folders do: key ``b/x`` under prefix ``a`` is key ``x`` under prefix ``a/b``, and `count`
    under ``a`` counts it. Errors name the whole key, as it stands in the store beneath. Closing a
    PrefixStore leaves the store beneath open, since others share it; a call that waits goes on waiting.

    Parameters
    ----------
    prefix : str
        Prefix and ``/`` and key together may have 4 KiB.
    store : Store
        Where the keys really are.
    timeout : float, optional
        Default time-out of each call, in seconds; that of `store` unless given.
    """

    def __init__(self, prefix: str, store: Store, *, timeout: float | None = None) -> None:
        super().__init__(timeout=store.timeout if timeout is None else timeout)
        self._name = prefix
        self._prefix = prefix + "/"
        self._store = store

    def __repr__(self) -> str:
        return f"PrefixStore({self._name!r}, {self._store!r})"

    def _set(self, key: str, value: bytes, deadline: Deadline) -> None:
        self._store.set(self._prefix + key, value, timeout=deadline.remaining())

    def _get(self, key: str, deadline: Deadline) -> bytes:
        return self._store.get(self._prefix + key, timeout=deadline.remaining())

    def _add(self, key: str, amount: int, deadline: Deadline) -> int:
        return self._store.add(self._prefix + key, amount, timeout=deadline.remaining())

    def _wait(self, keys: tuple[str, ...], deadline: Deadline) -> Sequence[str]:
        self._store.wait([self._prefix + key for key in keys], timeout=deadline.remaining())
        return ()

    def _delete(self, key: str, deadline: Deadline) -> bool:
        return self._store.delete(self._prefix + key, timeout=deadline.remaining())

    def _count(self, prefix: str, deadline: Deadline) -> int:
        return self._store.count(self._prefix + prefix, timeout=deadline.remaining())

    def _compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline
    ) -> bytes | None:
        return self._store.compare_and_set(self._prefix + key, expected, value, timeout=deadline.remaining())

    def _discard(self, keys: tuple[str, ...], deadline: Deadline) -> int:
        return self._store.discard([self._prefix + key for key in keys], timeout=deadline.remaining())

    def _bequeath(self, key: str, value: bytes | None, deadline: Deadline) -> bool:
        return self._store.bequeath(self._prefix + key, value, timeout=deadline.remaining())

    def _refused(self, deadline: Deadline) -> str:
        return self._store.refused(timeout=deadline.remaining())

    def _close(self) -> None:
        """Leave the store beneath open: others share it."""
