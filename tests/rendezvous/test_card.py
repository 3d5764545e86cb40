"""What ranks tell each other of themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous.card import Card, _proof, disagreement, seal, unseal
from commops.rendezvous.token import Token

TOKEN = Token(b"secret")
CARD = Card(
    rank=0,
    size=3,
    transport="auto",
    version="1",
    machine="m",
    host="m a",
    host_name="a",
    process=7,
    unix="name",
    addresses="127.0.0.1:1",
    tls=False,
    loopback=True,
    tunables={"slots": 4},
    nonce="n",
)


def cards(**second: Any) -> list[Card]:
    return [CARD, CARD._replace(rank=1, **second), CARD._replace(rank=2)]


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_card_survives_the_journey(token: Token | None) -> None:
    assert Card.unpack(token, CARD.pack(token), 0) == CARD


@pytest.mark.parametrize(("one", "other"), [(TOKEN, None), (None, TOKEN), (TOKEN, Token(b"other"))])
def test_another_token_is_found_out(one: Token | None, other: Token | None) -> None:
    with pytest.raises(AuthenticationError, match="rank 0 has another token than this rank"):
        Card.unpack(one, CARD.pack(other), 0)


def test_a_seal_is_of_one_kind() -> None:
    with pytest.raises(AuthenticationError):
        unseal(TOKEN, "world", seal(TOKEN, "card", {}), "rank 0")


@given(st.binary(max_size=200))
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(RendezvousError):
        Card.unpack(None, data, 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_sealed_nonsense_is_refused_too(content: Any) -> None:
    with pytest.raises(RendezvousError):
        Card.unpack(TOKEN, seal(TOKEN, "card", content), 0)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"', b'{"\\udfff": 1}', b"1" * 5000],
    ids=["deep list", "deep dict", "half a character", "half a character as key", "long number"],
)
def test_json_that_cannot_be_handed_on_is_refused(body: bytes) -> None:
    with pytest.raises(RendezvousError, match="what rank 0 has written makes no sense"):
        unseal(None, "card", _proof(None, "card", body) + body, "rank 0")


def test_tunables_are_numbers() -> None:
    for value in (None, "4", 4.0, True, [4]):
        with pytest.raises(RendezvousError, match="the card of rank 0 makes no sense: tunables"):
            Card.of(CARD.fields() | {"tunables": {"slots": value}}, 0)


@pytest.mark.parametrize("field", Card._fields)
def test_a_field_of_another_type_is_refused(field: str) -> None:
    with pytest.raises(RendezvousError, match=f"the card of rank 0 makes no sense: {field}"):
        Card.of(CARD.fields() | {field: None}, 0)


def test_a_card_of_another_version_is_named_so() -> None:
    with pytest.raises(RendezvousError, match=r"rank 2 runs version 9\.9 of commops and this one"):
        Card.of({"version": "9.9", "something": "new"}, 2)


def test_a_card_in_the_place_of_another() -> None:
    with pytest.raises(RendezvousError, match="it is that of rank 0"):
        Card.of(CARD.fields(), 1)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"size": 4}, "ranks 0 and 1 differ in size: 3 and 4; every rank must be given the same size"),
        ({"version": "2"}, "differ in version: 1 and 2"),
        ({"transport": "tcp"}, "differ in transport: auto and tcp"),
        ({"tls": True}, "differ in tls: False and True; every rank must have TLS, or none"),
        ({"tunables": {"slots": 5, "new": 1}}, "{'slots': 4, 'new': None} and {'slots': 5, 'new': 1}"),
        ({"machine": "other", "host_name": "b"}, "on 2 machines (a, b) and rank 0 listens for its own alone"),
    ],
)
def test_what_does_not_fit_together(second: dict[str, Any], words: str) -> None:
    text = disagreement(cards(**second))
    assert text is not None
    assert words in text


def test_what_may_differ() -> None:
    assert (
        disagreement(cards(host="m b", host_name="b", process=8, unix="x", addresses="", nonce="o")) is None
    )


def test_shared_memory_needs_one_host() -> None:
    shm = [card._replace(transport="shm") for card in cards(host="m b", host_name="b")]
    assert disagreement(shm) == "transport='shm' needs all ranks on one host, and they are on 2: a, b"
