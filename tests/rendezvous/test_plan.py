"""What rank 0 tells the others of the world that they make."""

from __future__ import annotations

from typing import Any

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous.card import seal
from commops.rendezvous.plan import Plan
from commops.rendezvous.token import Token

from .test_card import cards

TOKEN = Token(b"secret")
PLAN = Plan("0123456789abcdef" * 2, {"0": "n", "1": "o", "2": "p"}, cards(), {"slots": 4}, "key")


def read(token: Token | None, data: bytes) -> Plan:
    return Plan.of(Plan.fields_of(token, data))


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("plan", [PLAN, PLAN._replace(cards=[], error="why", authentication=True)])
def test_a_plan_survives_the_journey(token: Token | None, plan: Plan) -> None:
    assert read(token, plan.pack(token)) == plan


def test_another_token_is_found_out() -> None:
    with pytest.raises(AuthenticationError):
        read(TOKEN, PLAN.pack(None))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job", "no number"),
        ("job", "0" * 31),
        ("job", "0" * 32 + "\n"),
        ("job", 7),
        ("nonces", ["n"]),
        ("nonces", {"0": 1}),
        ("cards", {}),
        ("cards", [1]),
        ("cards", [{"rank": 0}]),
        ("tunables", None),
        ("tunables", {"slots": "4"}),
        ("key", None),
        ("error", 0),
        ("authentication", 1),
        ("more", 1),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    fields = Plan.fields_of(None, PLAN.pack(None))
    with pytest.raises(RendezvousError):
        read(None, seal(None, "world", fields | {name: value}))


def test_no_plan_at_all_is_refused() -> None:
    for content in (None, [], "plan", {}):
        with pytest.raises(RendezvousError, match="the answer of rank 0 makes no sense"):
            read(None, seal(None, "world", content))
