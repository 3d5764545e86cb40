"""What every store offers: a small table of keys and values through which ranks find each other."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, overload

from commops.errors import RendezvousError
from commops.rendezvous.deadline import DEFAULT_TIMEOUT, Deadline, check_timeout

__all__ = ["MAX_KEY", "MAX_VALUE", "Store", "decode_key", "encode_key"]

MAX_KEY = 4 << 10
"""Longest key, in bytes of UTF-8."""

MAX_VALUE = 64 << 20
"""Longest value, in bytes."""

_INT64 = range(-(1 << 63), 1 << 63)


def encode_key(key: str) -> bytes:
    """Return the bytes that stand for a key outside this process. Any `str` has them, lone surrogates too."""
    return key.encode("utf-8", "surrogatepass")


def decode_key(key: bytes) -> str:
    """Return the key that `encode_key` made these bytes from."""
    return key.decode("utf-8", "surrogatepass")


class Store(ABC):
    """A table from `str` keys to `bytes` values that all ranks of a job share.

    Each call is atomic: whatever several ranks do at once has the outcome of doing it in some order. Keys are
    any string of at most 4 KiB in UTF-8, values any bytes up to 64 MiB. A store is for meeting and for rare
    coordination, not for data. Every method may be called from several threads.

    Every call has a time-out in seconds, fractions included: `timeout=` of the call, or else of the
    constructor. A call that passes it raises `RendezvousError`; ``timeout=0`` looks once.

    Three methods are for what ranks do while they meet: `discard` removes several keys at once, and a store
    with a server can also be told what to say for a process that ends (`bequeath`), and tells whom it has
    `refused`.

    A new kind of store overrides the methods that begin with an underscore. They receive arguments that
    have been checked and a `Deadline`; they raise `RendezvousError` when the store cannot be reached by then.

    Parameters
    ----------
    timeout : float
        Default time-out of each call, in seconds.
    """

    def __init__(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._timeout = check_timeout(timeout)
        self._closed = False

    @property
    def timeout(self) -> float:
        """The time-out of calls that do not give one, in seconds. It may be set."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._timeout = check_timeout(seconds)

    # ---- what people call

    def set(self, key: str, value: bytes, *, timeout: float | None = None) -> None:
        """Store `value` under `key`, in place of any earlier one."""
        self._set(_checked_key(key), _checked_value("value", value), self._begin(timeout))

    def get(self, key: str, timeout: float | None = None) -> bytes:
        """Return the value under `key`, waiting until there is one.

        Raises
        ------
        RendezvousError
            If the key has not appeared within the time-out.
        """
        deadline = self._begin(timeout)
        value = self._get(_checked_key(key), deadline)
        if value is None:
            raise self._missing([key], 1, deadline)
        return value

    def add(self, key: str, amount: int = 1, *, timeout: float | None = None) -> int:
        """Add `amount` to the counter under `key` and return its new value.

        A key that does not exist counts as 0. The counter is kept as ASCII decimal digits, so `get` reads
        it and `set` may start it elsewhere.

        Raises
        ------
        ValueError
            If the value under `key` is no decimal integer, or the sum leaves the signed 64-bit range.
        """
        step = operator.index(amount)
        if step not in _INT64:
            raise ValueError(f"amount must fit a signed 64-bit integer, not {step}")
        return self._add(_checked_key(key), step, self._begin(timeout))

    def wait(self, keys: Iterable[str], timeout: float | None = None) -> None:
        """Return once all of `keys` exist.

        Raises
        ------
        RendezvousError
            If some do not exist when the time-out has passed; the message names exactly those.
        """
        if isinstance(keys, str):
            raise TypeError(f"keys must be several strings, not the one string {keys!r}")
        wanted = tuple(dict.fromkeys(_checked_key(key) for key in keys))
        deadline = self._begin(timeout)
        missing = self._wait(wanted, deadline) if wanted else ()
        if missing:
            raise self._missing(missing, len(wanted), deadline)

    def delete(self, key: str, *, timeout: float | None = None) -> bool:
        """Remove `key`, and say whether it was there."""
        return self._delete(_checked_key(key), self._begin(timeout))

    def count(self, prefix: str = "", *, timeout: float | None = None) -> int:
        """Return how many keys there are, or how many of them begin with `prefix`."""
        return self._count(_checked_key(prefix), self._begin(timeout))

    @overload
    def compare_and_set(
        self, key: str, expected: None, value: bytes, *, timeout: float | None = None
    ) -> bytes: ...
    @overload
    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, *, timeout: float | None = None
    ) -> bytes | None: ...
    def compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, *, timeout: float | None = None
    ) -> bytes | None:
        """Store `value` under `key` if the value there is `expected`; return what is stored afterwards.

        Parameters
        ----------
        key : str
        expected : bytes or None
            The value that must be there; None: the key must not exist.
        value : bytes
            The new value. Of several ranks that try with values of their own, the one that gets its
            own value back has won.

        Returns
        -------
        bytes or None
            The value now under `key`. None only where a value was expected and the key does not exist.
        """
        if expected is not None:
            expected = _checked_value("expected", expected)
        new = _checked_value("value", value)
        return self._compare_and_set(_checked_key(key), expected, new, self._begin(timeout))

    def discard(self, keys: Iterable[str], *, timeout: float | None = None) -> int:
        """Remove those of `keys` that exist, one after the other, and return how many that were."""
        if isinstance(keys, str):
            raise TypeError(f"keys must be several strings, not the one string {keys!r}")
        unwanted = tuple(dict.fromkeys(_checked_key(key) for key in keys))
        return self._discard(unwanted, self._begin(timeout)) if unwanted else 0

    def bequeath(self, key: str, value: bytes | None, *, timeout: float | None = None) -> bool:
        """Have `value` stored under `key`, if there is none, should this process end without a word.

        So others that wait for the key learn of an end that nobody could announce.

        Parameters
        ----------
        key : str
            No two processes may bequeath the same.
        value : bytes or None
            None takes that back: from now on the end is nobody's concern.

        Returns
        -------
        bool
            Whether this kind of store does so. Only one with a server of its own can: it goes by the
            connection, so closing the store counts as an end.
        """
        new = None if value is None else _checked_value("value", value)
        return self._bequeath(_checked_key(key), new, self._begin(timeout))

    def refused(self, *, timeout: float | None = None) -> str:
        """Say who was refused for lack of the token, as ``2 from 10.0.0.3``; empty where nobody was."""
        return self._refused(self._begin(timeout))

    def close(self) -> None:
        """Let go of sockets and threads; calls in other threads end with `RendezvousError`. Twice is fine."""
        self._closed = True
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what a kind of store provides

    @abstractmethod
    def _set(self, key: str, value: bytes, deadline: Deadline) -> None: ...

    @abstractmethod
    def _get(self, key: str, deadline: Deadline) -> bytes | None:
        """Wait for `key` and return its value, or None once the deadline has passed."""

    @abstractmethod
    def _add(self, key: str, amount: int, deadline: Deadline) -> int: ...

    @abstractmethod
    def _wait(self, keys: tuple[str, ...], deadline: Deadline) -> Sequence[str]:
        """Wait until all of `keys` exist at once; return those that do not when the deadline has passed."""

    @abstractmethod
    def _delete(self, key: str, deadline: Deadline) -> bool: ...

    @abstractmethod
    def _count(self, prefix: str, deadline: Deadline) -> int: ...

    @abstractmethod
    def _compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline
    ) -> bytes | None: ...

    def _discard(self, keys: tuple[str, ...], deadline: Deadline) -> int:
        return sum(self._delete(key, deadline) for key in keys)

    def _bequeath(self, key: str, value: bytes | None, deadline: Deadline) -> bool:
        return False

    def _refused(self, deadline: Deadline) -> str:
        return ""

    @abstractmethod
    def _close(self) -> None:
        """Release what the store holds. Called at each `close`, so it must bear being called again."""

    # ---- shared by the kinds

    def _begin(self, timeout: float | None) -> Deadline:
        self._check_open()
        return Deadline(self._timeout if timeout is None else timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise RendezvousError(f"{self!r} is closed")

    def _missing(self, missing: Sequence[str], wanted: int, deadline: Deadline) -> RendezvousError:
        names = ", ".join(map(repr, missing))
        keys = f"key {names}" if wanted == 1 else f"{len(missing)} of {wanted} keys: {names}"
        return RendezvousError(
            f"{self!r}: waited {deadline.waited():.3g} s (time-out {deadline.timeout:g} s), "
            f"still missing {keys}"
        )


def _checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    length = len(encode_key(key))
    if length > MAX_KEY:
        raise ValueError(f"key must be at most {MAX_KEY} bytes of UTF-8, not {length}: {key[:32]!r}…")
    return key


def _checked_value(name: str, value: bytes) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    frozen = bytes(value)
    if len(frozen) > MAX_VALUE:
        raise ValueError(f"{name} must be at most {MAX_VALUE} bytes, not {len(frozen)}")
    return frozen
