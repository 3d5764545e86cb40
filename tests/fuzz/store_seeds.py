"""Write the inputs that fuzzing of the rendezvous begins with: ``python -m tests.fuzz.store_seeds FOLDER``.

They come from the code that writes these bytes in earnest, so after a change of a format they can be made
anew (`make fuzz-corpus`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.card import Card, forfeit
from commops.rendezvous.plan import Plan
from commops.rendezvous.tcp_protocol import Kind, Message, encode

from .store import NONCE, TOKEN

MESSAGES = [
    Message(Kind.SET, 0, (b"key", b"value")),
    Message(Kind.GET, 0, (b"key",)),
    Message(Kind.GET, 10**9, (b"later",)),
    Message(Kind.ADD, -3, (b"counter",)),
    Message(Kind.ADD, 2**63 - 1, (b"counter",)),
    Message(Kind.WAIT, 10**9, (b"key", b"later")),
    Message(Kind.DELETE, 0, (b"key", b"key")),
    Message(Kind.COUNT, 0, (b"k",)),
    Message(Kind.COMPARE_AND_SET, 0, (b"key", b"value")),
    Message(Kind.COMPARE_AND_SET, 0, (b"key", b"other", b"value")),
    Message(Kind.BEQUEATH, 0, (b"later", b"will")),
    Message(Kind.BEQUEATH, 0, (b"later",)),
    Message(Kind.STRANGERS),
]
REPLIES = [
    Message(Kind.DONE, -1),
    Message(Kind.VALUE),
    Message(Kind.VALUE, 0, (b"value",)),
    Message(Kind.MISSING, 0, (b"key", b"later")),
    Message(Kind.REFUSED, 0, (b"why",)),
]
CARD = Card(
    rank=0,
    size=2,
    transport="auto",
    version="1",
    machine="m",
    host="m a",
    host_name="a",
    process=7,
    unix="name",
    addresses="127.0.0.1:1",
    loopback=True,
    tls=False,
    tunables={"slots": 4},
    nonce="n",
)


def _frames() -> dict[str, bytes]:
    seeds = {f"frame-{at}": encode(message) for at, message in enumerate(MESSAGES + REPLIES)}
    return seeds | {"stream": b"".join(map(encode, MESSAGES))}


def _greetings() -> dict[str, bytes]:
    seeds = {}
    for flag, token in enumerate([None, TOKEN]):
        response = handshake.respond(token, NONCE, NONCE)
        seeds[f"response-{flag}"] = bytes([0, flag]) + response
        seeds[f"verdict-{flag}"] = bytes([2, flag]) + handshake.verdict(token, NONCE, response)
        for refusal in handshake.Refusal:
            greeting = handshake.greet(token, NONCE, refusal)
            seeds[f"greeting-{flag}-{refusal}"] = bytes([1, flag]) + greeting
    return seeds


def _cards() -> dict[str, bytes]:
    """The first byte is read by `store.cards`: with a token, as it is or to be sealed, and what it is."""
    plan = Plan("0" * 32, {"0": "n", "1": "o"}, [CARD, CARD._replace(rank=1)], {"slots": 4}, "key")
    proof = 64
    return {
        "card": b"\x01" + CARD.pack(TOKEN)[proof:],
        "card-without-token": b"\x02" + CARD.pack(None),
        "card-sealed": b"\x03" + CARD.pack(TOKEN),
        "forfeit": b"\x00" + forfeit(None, "why")[proof:],
        "plan": b"\x05" + plan.pack(TOKEN)[proof:],
        "plan-sealed": b"\x06" + plan.pack(None),
        "plan-error": b"\x04" + plan._replace(cards=[], error="why").pack(None)[proof:],
        "complaint": b"\x09" + json.dumps("rank 1 has ended").encode(),
    }


def _said(client: int, data: bytes) -> bytes:
    return bytes([client + 3 * 4, len(data)]) + data


def _server() -> dict[str, bytes]:
    """Records as `store.server` reads them."""
    connect, passes, prove, leave = 0, 4, 8, 20
    seeds = {}
    for flag in (0, 1):
        for at, message in enumerate(MESSAGES):
            script = bytes([flag, connect, prove, connect + 1, prove + 1]) + _said(0, encode(message))
            script += _said(1, encode(MESSAGES[0])) + _said(1, encode(MESSAGES[2])) + bytes([passes, 32])
            seeds[f"member-{flag}-{at}"] = script + bytes([leave, passes, 255])
        everything = b"".join(_said(0, encode(message)) for message in MESSAGES if message.number < 10**9)
        seeds[f"session-{flag}"] = bytes([flag, connect, prove]) + everything
        early = handshake.respond(TOKEN, NONCE, NONCE)
        strangers = bytes([flag, connect]) + _said(0, early[:40]) + _said(0, early[40:])
        seeds[f"stranger-{flag}"] = strangers + bytes([connect + 1, passes, 255])
    return seeds


def main(folder: Path) -> None:
    seeds = {"frames": _frames(), "greetings": _greetings(), "cards": _cards(), "server": _server()}
    for target, inputs in seeds.items():
        (folder / f"store-{target}").mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / f"store-{target}" / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
