"""What rank 0 decides when ranks meet, as it stands in a store."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from commops.errors import RendezvousError
from commops.rendezvous.card import Card, seal, unseal
from commops.rendezvous.token import Token

__all__ = ["ENDED", "Plan"]

ENDED = "ended while the ranks joined"
"""By which an error is known to tell of another rank's end."""


class Plan(NamedTuple):
    """What rank 0 has decided.

    Attributes
    ----------
    job : str
        A random name for this world, 32 hexadecimal digits.
    nonces : dict of str
        Of the cards that were read, by the rank (as JSON has it, in digits).
    cards : list of Card
        Of all ranks; empty where there is an error.
    tunables : dict
        Name and value of all that ranks must have alike.
    key : str
        The secret of a job without a token.
    error, authentication : str, bool
        Why there is no world, and whether it is for the token; empty where there is one.
    """

    job: str
    nonces: dict[str, str]
    cards: list[Card]
    tunables: dict[str, int]
    key: str = ""
    error: str = ""
    authentication: bool = False

    def pack(self, token: Token | None) -> bytes:
        """Return the bytes that go into the store."""
        return seal(token, "world", self._asdict() | {"cards": [card.fields() for card in self.cards]})

    @classmethod
    def without_world(cls, error: str) -> Plan:
        """Return the plan that says why there is no world."""
        return cls(job=os.urandom(16).hex(), nonces={}, cards=[], tunables={}, error=error)

    @classmethod
    def fields_of(cls, token: Token | None, data: bytes) -> dict[str, Any]:
        """Return what `of` takes, of what `pack` has returned.

        Raises
        ------
        AuthenticationError
            If its writer had another token.
        RendezvousError
            If it is no plan, or one of another version of commops. The cards are not looked at: those of
            another job may be of another version.
        """
        fields = unseal(token, "world", data, "rank 0")
        if not (
            isinstance(fields, dict)
            and fields.keys() == _PLAN_KINDS.keys()
            and all(type(fields[name]) is kind for name, kind in _PLAN_KINDS.items())
            and all(type(nonce) is str for nonce in fields["nonces"].values())
            and all(type(value) is int for value in fields["tunables"].values())
            and re.fullmatch("[0-9a-f]{32}", fields["job"])
        ):
            raise RendezvousError(
                "the answer of rank 0 makes no sense; does it run another version of commops?"
            )
        return fields

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Plan:
        """Return the plan with these fields; RendezvousError if its cards make no sense."""
        return cls(**fields | {"cards": [Card.of(one, rank) for rank, one in enumerate(fields["cards"])]})


_PLAN_KINDS = {
    "job": str,
    "nonces": dict,
    "cards": list,
    "tunables": dict,
    "key": str,
    "error": str,
    "authentication": bool,
}
