"""The errors that collectives, rendezvous and launch raise.

All of them are `CommError`, so ``except commops.CommError`` catches whatever went wrong between
ranks. A mistake that is visible on one rank alone (a wrong shape, dtype, root, op or tag) is a plain
`TypeError` or `ValueError` there, raised before a byte is sent, and leaves the communicator usable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AuthenticationError",
    "CommError",
    "CommTimeoutError",
    "MismatchError",
    "PeerLostError",
    "RendezvousError",
    "RevokedError",
]


class CommError(Exception):
    """Something went wrong between ranks. The base of every error below."""


class PeerLostError(CommError):
    """A rank that this one needs is gone.

    Attributes
    ----------
    ranks : tuple of int
        The lost ranks, as numbered in the communicator that raised.
    cause : str
        How they were lost, as far as it is known here.
    """

    def __init__(self, ranks: Sequence[int], cause: str) -> None:
        self.ranks = tuple(ranks)
        self.cause = cause
        names = ", ".join(map(str, self.ranks)) or "unknown"
        super().__init__(f"lost rank{'s' if len(self.ranks) > 1 else ''} {names}: {cause}")

    def __reduce__(self) -> tuple[Any, ...]:
        # The dictionary holds the notes, which a copy in another process is to show too.
        return type(self), (self.ranks, self.cause), self.__dict__


class CommTimeoutError(CommError, TimeoutError):
    """A call passed its deadline. The message says which ranks had arrived and which were missing."""


class MismatchError(CommError, ValueError):
    """Ranks of one communicator made different calls. The message shows what each of them called."""


class RevokedError(CommError):
    """The communicator was closed, revoked, or broken by an earlier error."""


class RendezvousError(CommError):
    """The ranks did not find each other: a silent store, a rank that came twice, another world size."""


class AuthenticationError(RendezvousError):
    """A peer or a store did not prove that it holds this job's token, or a certificate of it under TLS."""
