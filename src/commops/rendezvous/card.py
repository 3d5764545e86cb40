"""What a rank tells the others of itself before they are connected, and whether all of it fits together.

A card travels through a store, which may be a folder or a Redis server that others can write to. So it is
sealed with the job's token: whoever reads it knows that a rank of this job wrote it, and a token that does
not fit is found out before anything is connected.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous.token import Token

__all__ = ["Card", "ForfeitError", "disagreement", "forfeit", "seal", "unseal"]

_PROOF = 64  # hexadecimal digits of HMAC-SHA256


class ForfeitError(RendezvousError):
    """In the place of its card a rank says why it cannot join."""


class Card(NamedTuple):
    """A rank, as the others need to know it.

    Attributes
    ----------
    rank, size : int
        Its number, and the number of ranks that it expects.
    transport : str
        What `commops.init` was asked for.
    version : str
        Of commops.
    machine : str
        Equal on two ranks if and only if they can share memory.
    host, host_name : str
        Ranks of equal `host` count as neighbours; the name is for people.
    process : int
        Process id on its machine.
    unix : str
        Abstract socket name at which it hands over descriptors.
    addresses : str
        Where it listens, ``address:port`` separated by blanks; empty where it does not.
    tls : bool
        Whether it speaks TLS over TCP.
    loopback : bool
        Whether only its own machine reaches those.
    tunables : dict
        Name and value of every tunable that its environment sets and ranks must have alike.
    nonce : str
        Random; tells this card from that of another process, or of an earlier job.
    """

    rank: int
    size: int
    transport: str
    version: str
    machine: str
    host: str
    host_name: str
    process: int
    unix: str
    addresses: str
    tls: bool
    loopback: bool
    tunables: dict[str, int]
    nonce: str

    @property
    def who(self) -> str:
        """Who this is, in words."""
        return f"process {self.process} on {self.host_name}"

    def fields(self) -> dict[str, Any]:
        """Return what `of` takes."""
        return self._asdict()

    def pack(self, token: Token | None) -> bytes:
        """Return the bytes that go into the store."""
        return seal(token, "card", self.fields())

    @classmethod
    def unpack(cls, token: Token | None, data: bytes, rank: int) -> Card:
        """Return the card that was stored for `rank`.

        Raises
        ------
        AuthenticationError
            If its writer had another token.
        ForfeitError
            If the rank cannot join.
        RendezvousError
            If it is no card, or one of another version of commops.
        """
        fields = unseal(token, "card", data, f"rank {rank}")
        if isinstance(fields, dict) and fields.keys() == {"forfeit"}:
            raise ForfeitError(str(fields["forfeit"]))
        return cls.of(fields, rank)

    @classmethod
    def of(cls, fields: Any, rank: int) -> Card:
        """Return the card with these fields; RendezvousError if they do not make one of `rank`."""
        try:
            card = cls(**fields)
        except TypeError:
            from commops import __version__

            theirs = fields.get("version", "unknown") if isinstance(fields, dict) else "unknown"
            raise RendezvousError(
                f"rank {rank} runs version {theirs} of commops and this one {__version__}; install the same"
                " version everywhere"
            ) from None
        for name, value in card.fields().items():
            if type(value) is not _KINDS.get(name, str):
                raise RendezvousError(f"the card of rank {rank} makes no sense: {name}")
        if not all(type(value) is int for value in card.tunables.values()):
            raise RendezvousError(f"the card of rank {rank} makes no sense: tunables")
        if card.rank != rank:
            raise RendezvousError(f"the card of rank {rank} makes no sense: it is that of rank {card.rank}")
        return card


# What is no text.
_KINDS = {"rank": int, "size": int, "process": int, "loopback": bool, "tls": bool, "tunables": dict}


def forfeit(token: Token | None, reason: str) -> bytes:
    """Return what a rank that cannot join puts into the place of its card."""
    return seal(token, "card", {"forfeit": reason})


def seal(token: Token | None, kind: str, content: Any) -> bytes:
    """Return `content` as JSON behind a proof that its writer has the token.

    Without a token the proof shows only that the bytes are whole.
    """
    body = json.dumps(content).encode()
    return _proof(token, kind, body) + body


def unseal(token: Token | None, kind: str, data: bytes, writer: str) -> Any:
    """Return what `seal` was given.

    Raises
    ------
    AuthenticationError
        If it was sealed with another token, or is damaged.
    RendezvousError
        If it is no JSON, or holds what cannot be handed on: without a token, anyone may have sealed it.
    """
    proof, body = data[:_PROOF], data[_PROOF:]
    if not hmac.compare_digest(proof, _proof(token, kind, body)):
        raise AuthenticationError(
            f"{writer} has another token than this rank, or only one of the two has any"
        )
    try:
        content = json.loads(body)
        json.dumps(content, ensure_ascii=False).encode()  # JSON can spell halves of characters, UTF-8 cannot
    except (ValueError, RecursionError) as error:
        raise RendezvousError(f"what {writer} has written makes no sense: {error}") from error
    return content


def _proof(token: Token | None, kind: str, body: bytes) -> bytes:
    return hmac.digest(token or b"", f"commops {kind}\0".encode() + body, "sha256").hex().encode()


_MUST_AGREE = (
    ("size", "every rank must be given the same size"),
    ("version", "install the same version of commops everywhere"),
    ("transport", "every rank must ask for the same transport"),
    ("tls", "every rank must have TLS, or none: give all of them tls= or COMMOPS_TLS_FILE"),
    ("tunables", "set the COMMOPS_… variables alike on all ranks"),
)


def disagreement(cards: Sequence[Card]) -> str | None:
    """Say in what the first card and another do not fit together, or return None."""
    first = cards[0]
    for name, advice in _MUST_AGREE:
        for card in cards[1:]:
            one, other = getattr(first, name), getattr(card, name)
            if one == other:
                continue
            if isinstance(one, dict):
                one, other = _differing(one, other)
            return f"ranks {first.rank} and {card.rank} differ in {name}: {one} and {other}; {advice}"
    hosts = _names(cards, "host")
    if first.transport == "shm" and len(hosts) > 1:
        return (
            f"transport='shm' needs all ranks on one host, and they are on {len(hosts)}: {', '.join(hosts)}"
        )
    machines = _names(cards, "machine")
    hidden = [card for card in cards if card.loopback]
    if len(machines) > 1 and hidden:
        return (
            f"the ranks are on {len(machines)} machines ({', '.join(machines)}) and rank {hidden[0].rank}"
            " listens for its own alone: set COMMOPS_INTERFACE=any (or the name of a network interface), and"
            " one token, on all ranks"
        )
    return None


def _differing(one: dict[str, int], other: dict[str, int]) -> tuple[dict[str, int | None], ...]:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return {name: one.get(name) for name in names}, {name: other.get(name) for name in names}


def _names(cards: Sequence[Card], attribute: str) -> list[str]:
    """Return the name of each host or machine, in the order of their first ranks."""
    names: dict[str, str] = {}
    for card in cards:
        names.setdefault(getattr(card, attribute), card.host_name)
    return list(names.values())
