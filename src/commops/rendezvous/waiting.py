"""How a process that wants to join a running group and the group find each other in a store.

1. A newcomer takes the lowest free ticket, ``ticket/<number>``, by which it is counted and queued.
2. When the group has come to a point at which all its ranks agree to grow, its rank 0 calls those who wait
   (``word/<nonce>``, the nonce being that of the ticket). Who lives answers (``here/<nonce>/<call>``).
3. Rank 0 tells those who have answered which ranks they are and where the meeting is that makes the new
   world, and takes their tickets away. From there on all is as when a job begins (`meeting`).

Where the store can, it says for a newcomer that ends that it is ``gone/<nonce>``; else it does not answer.
Rank 0 may die at any step: the next one finds the tickets that are there, and calls again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from commops.errors import RendezvousError
from commops.rendezvous.card import seal, unseal
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.prefix_store import PrefixStore
from commops.rendezvous.store import Store
from commops.rendezvous.token import Token

__all__ = ["BEGUN", "JOINED", "MOST", "PART", "Admission", "Door", "Newcomer"]

MOST = "most"
"""The key under which a launcher says how many ranks the group may have."""

BEGUN = "begun"
"""The key by which ranks tell the launcher that there is a group."""

JOINED = "joined/"
"""What stands before the number of a replacement in the key that tells its launcher that it has joined."""

PART = "grow"
"""The part of the job's store in which all that is."""

_SLICE = 1.0  # seconds between two looks of a newcomer at its own ticket
_ANSWER = 2.0  # seconds in which a newcomer that lives answers
_GRACE = 1.0  # seconds for a call to the store when things go wrong
_HOLES = 1024  # free tickets among those that are taken, at most
_NONCE = re.compile("[0-9a-f]{32}")


class Admission(NamedTuple):
    """What a newcomer is told.

    Attributes
    ----------
    rank, size, generation : int
        In the world that is to be made.
    place : str
        Prefix of its meeting.
    """

    rank: int
    size: int
    generation: int
    place: str

    @classmethod
    def of(cls, fields: Any) -> Admission:
        """Return the admission with these fields; RendezvousError if they make no sense."""
        try:
            one = cls(*fields)
            sound = all(type(value) is int for value in one[:3]) and type(one.place) is str
        except TypeError:
            sound = False
        if not (sound and 0 < one.rank < one.size and one.generation > 0):
            raise RendezvousError(f"what rank 0 has answered to a newcomer makes no sense: {fields!r}")
        return one


class Newcomer:
    """A process that waits for its admission.

    Parameters
    ----------
    store : Store
        That of the job.
    token : Token, optional
    """

    def __init__(self, store: Store, token: Token | None) -> None:
        self._store, self._token = PrefixStore(PART, store), token
        self._nonce = self._ticket = ""
        self._value = b""  # of the ticket
        self._called = ""  # the call that was answered last

    def wait(self, deadline: Deadline) -> Admission:
        """Return what the group answers.

        Raises
        ------
        RendezvousError
            If it has not answered by the deadline.
        """
        try:
            self._queue()
            while deadline.remaining() > 0.0:
                word = self._word(min(_SLICE, deadline.remaining()))
                if "admission" in word:
                    self._leave()
                    return Admission.of(word["admission"])
                # Somebody has called who could not wait for the answer; or he could not tell us so.
                if "again" in word or (not word and self._look_up(self._ticket) != self._value):
                    self._leave()
                    self.over()
                    self._queue()
        except BaseException:
            self._leave()
            self.over()
            raise
        self._leave()
        self.over()
        raise RendezvousError(
            f"no group has admitted this process within {deadline.timeout:.3g} s at {self._store!r}: its"
            " ranks do so when they call grow"
        )

    def over(self) -> None:
        """Be done: from here on the end of this process is no concern of those who let newcomers in."""
        with contextlib.suppress(RendezvousError):
            self._store.bequeath(f"gone/{self._nonce}", None, timeout=_GRACE)

    def tell_launcher(self, number: str) -> None:
        """Tell the launcher that its replacement of this number is one of the group."""
        with contextlib.suppress(RendezvousError):
            self._store.set(JOINED + number, b"")

    def _queue(self) -> None:
        """Take a ticket."""
        self._nonce = os.urandom(16).hex()
        self._value = seal(self._token, "ticket", self._nonce)
        self._called = ""
        self._store.bequeath(f"gone/{self._nonce}", b"")
        number = 0
        while self._store.compare_and_set(_ticket(number), None, self._value) != self._value:
            number += 1
        self._ticket = _ticket(number)

    def _leave(self) -> None:
        """Take away what we have here."""
        with contextlib.suppress(RendezvousError):
            if self._look_up(self._ticket) == self._value:
                self._store.delete(self._ticket, timeout=_GRACE)
            self._store.delete(f"word/{self._nonce}", timeout=_GRACE)

    def _word(self, seconds: float) -> dict[str, Any]:
        """Return what the group has to say to us, if it says anything new within so many seconds."""
        if not self._called:
            with contextlib.suppress(RendezvousError):
                return self._read(self._store.get(f"word/{self._nonce}", timeout=seconds))
            return {}
        for _ in Deadline(seconds).polls():
            value = self._look_up(f"word/{self._nonce}")
            if value is not None and (word := self._read(value)):
                return word
        return {}

    def _read(self, value: bytes) -> dict[str, Any]:
        word = unseal(self._token, "word", value, "rank 0")
        if not isinstance(word, dict):
            raise RendezvousError(f"what rank 0 has said to a newcomer makes no sense: {word!r}")
        if "call" not in word:
            return word
        call = word["call"]
        if call == self._called or not isinstance(call, str) or not _NONCE.fullmatch(call):
            return {}
        self._called = call
        self._store.set(f"here/{self._nonce}/{call}", b"")
        return word

    def _look_up(self, key: str) -> bytes | None:
        return _look_up(self._store, key)


class Door:
    """Where rank 0 of a group lets newcomers in.

    Parameters
    ----------
    store : Store
        That of the job.
    token : Token, optional
    """

    def __init__(self, store: Store, token: Token | None) -> None:
        self._store, self._token = PrefixStore(PART, store), token

    def muster(self, size: int) -> list[str]:
        """Return the nonces of those who wait and live, as many as a group of `size` ranks has room for.

        Where nobody waits, it is one look into the store.
        """
        count = self._store.count("ticket/")
        if not count:
            return []
        most = _look_up(self._store, MOST)
        room = count if most is None else max(0, int(most) - size)
        tickets = dict(list(self._tickets(count).items())[:room])
        return self._call(tickets) if tickets else []

    def admit(self, nonces: Sequence[str], size: int, generation: int, place: str) -> None:
        """Tell newcomers that they are the ranks from `size` on."""
        tickets = self._tickets(self._store.count("ticket/"))
        for number, nonce in enumerate(nonces):
            answer = Admission(size + number, size + len(nonces), generation, place)
            self._tell(nonce, {"admission": answer})
        # Only now: who finds no ticket of his own any more takes another.
        if taken := [_ticket(tickets[nonce]) for nonce in nonces if nonce in tickets]:
            self._store.discard(taken)

    def gone(self, nonces: Sequence[str]) -> list[int]:
        """Return the places in `nonces` of those who are known to have ended."""
        if not self._store.count("gone/", timeout=_GRACE):
            return []
        return [
            number
            for number, nonce in enumerate(nonces)
            if _look_up(self._store, f"gone/{nonce}") is not None
        ]

    def forget(self, nonces: Iterable[str]) -> None:
        """Take away what those who have ended left here."""
        with contextlib.suppress(RendezvousError):
            keys = [f"{kind}/{nonce}" for nonce in nonces for kind in ("gone", "word")]
            self._store.discard(keys, timeout=_GRACE)

    def _tickets(self, count: int) -> dict[str, int]:
        """Return the tickets of those who are not known to have ended: number by nonce, in their order."""
        found: dict[str, int] = {}
        number = 0
        while count > 0 and number < count + len(found) + _HOLES:
            if (value := _look_up(self._store, _ticket(number))) is not None:
                count -= 1
                nonce = unseal(self._token, "ticket", value, "a process that wants to join")
                if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
                    raise RendezvousError(f"ticket {number} of {self._store!r} makes no sense")
                if _look_up(self._store, f"gone/{nonce}") is None:
                    found[nonce] = number
                else:
                    self._store.delete(_ticket(number), timeout=_GRACE)
                    self.forget([nonce])
            number += 1
        return found

    def _call(self, tickets: dict[str, int]) -> list[str]:
        """Return those who answer."""
        call = os.urandom(16).hex()
        for nonce in tickets:
            self._tell(nonce, {"call": call})
        silent = {nonce: f"here/{nonce}/{call}" for nonce in tickets}
        lost: list[str] = []
        patience = Deadline(_ANSWER)
        for _ in patience.polls():
            for nonce, key in list(silent.items()):
                if _look_up(self._store, key) is not None:
                    del silent[nonce]
                elif _look_up(self._store, f"gone/{nonce}") is not None:
                    del silent[nonce]
                    lost.append(nonce)
            if not silent:
                break
        self._store.discard([f"here/{nonce}/{call}" for nonce in tickets], timeout=_GRACE)
        for nonce in (*silent, *lost):
            self._store.delete(_ticket(tickets[nonce]), timeout=_GRACE)
        for nonce in silent:  # who was only slow takes a new one
            self._tell(nonce, {"again": True})
        self.forget(lost)
        return [nonce for nonce in tickets if nonce not in silent and nonce not in lost]

    def _tell(self, nonce: str, word: dict[str, Any]) -> None:
        self._store.set(f"word/{nonce}", seal(self._token, "word", word))


def _ticket(number: int) -> str:
    return f"ticket/{number}"


def _look_up(store: Store, key: str) -> bytes | None:
    """Return the value under a key, or None where there is none."""
    try:
        return store.get(key, timeout=0)
    except RendezvousError:
        return None
