"""Where and how a process has joined, which newcomers do after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from commops.errors import RendezvousError
from commops.rendezvous.bootstrap import World, meet
from commops.rendezvous.credentials import Credentials
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.prefix_store import PrefixStore
from commops.rendezvous.store import Store
from commops.rendezvous.token import Token
from commops.rendezvous.url import open_store

__all__ = ["Entrance"]


class Entrance:
    """The store where ranks have met, what they have shown each other, and how many worlds still use it.

    Parameters
    ----------
    where : str or Store
    served : bool
        Whether something else than a rank serves the store there, where the kind has a server.
    transport : {"auto", "shm", "tcp"}
    token : Token, optional
    tls : Credentials, optional
    interface : str
        As `addresses.choose` takes it.
    """

    def __init__(
        self,
        where: str | Store,
        served: bool,
        *,
        transport: str,
        token: Token | None,
        tls: Credentials | None,
        interface: str,
    ) -> None:
        self.where, self.served, self.token = where, served, token
        self._transport, self._tls, self._interface = transport, tls, interface
        self._store: Store | None = None
        self._users = 0

    @property
    def lasts(self) -> bool:
        """Whether the store there outlives the first meeting."""
        return self.served or not (isinstance(self.where, str) and self.where.startswith(("tcp:", "unix:")))

    @contextlib.contextmanager
    def opened(self, timeout: float, *, serves: bool = False) -> Iterator[Store]:
        """Open the store for a moment; a Store of the caller's stays open."""
        store = self._open(timeout, serves)
        try:
            yield store
        finally:
            if not isinstance(self.where, Store):
                store.close()

    def store(self, timeout: float) -> Store:
        """Return the store, open until the last world that came from it is closed."""
        if self._store is None:
            self._store = self._open(timeout, False)
        self._store.timeout = timeout
        return self._store

    def _open(self, timeout: float, serves: bool) -> Store:
        return open_store(
            self.where, is_server=serves, token=self.token, timeout=timeout, tls=self._tls or False
        )

    def use(self) -> None:
        """Count one more world."""
        self._users += 1

    def leave(self) -> None:
        """Count one less, and close the store after the last."""
        self._users -= 1
        if self._users == 0 and self._store is not None:
            if not isinstance(self.where, Store):
                with contextlib.suppress(RendezvousError):
                    self._store.close()
            self._store = None

    def meet(self, store: Store, place: str, rank: int, size: int, deadline: Deadline, **more: Any) -> World:
        """Meet the other ranks in the part `place` of the store; the rest is as `bootstrap.meet` has it."""
        return meet(
            PrefixStore(place, store),
            rank,
            size,
            transport=self._transport,
            token=self.token,
            tls=self._tls,
            interface=self._interface,
            deadline=deadline,
            outlives=self.served or (self.lasts and more.get("generation", 0) > 0),
            **more,
        )
