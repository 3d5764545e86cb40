"""The handshake of the socket stores, as messages alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commops.errors import AuthenticationError
from commops.rendezvous import tcp_handshake as handshake
from commops.rendezvous.tcp_protocol import ProtocolError

tokens = st.one_of(st.none(), st.binary(min_size=1, max_size=80))


def greeted(token: bytes | None, nonce: bytes) -> bytes:
    return handshake.read_greeting(token, handshake.greet(token, nonce))


@given(tokens)
def test_the_same_token_on_both_sides_is_accepted(token: bytes | None) -> None:
    server, client = handshake.new_nonce(), handshake.new_nonce()
    response = handshake.respond(token, greeted(token, server), client)
    assert len(response) == handshake.RESPONSE_SIZE
    assert handshake.accepts_response(token, server, response)
    last = handshake.verdict(token, server, response)
    assert len(last) == handshake.GREETING_SIZE
    handshake.read_verdict(token, server, client, last)


@given(st.binary(min_size=1), st.binary(min_size=1), st.data())
def test_any_other_token_is_refused(one: bytes, other: bytes, data: st.DataObject) -> None:
    # HMAC fills a short key up with zero bytes, so these do not tell two tokens apart.
    if one.rstrip(b"\0") == other.rstrip(b"\0"):
        return
    server, client = handshake.new_nonce(), handshake.new_nonce()
    response = handshake.respond(one, greeted(one, server), client)
    assert not handshake.accepts_response(other, server, response)
    with pytest.raises(AuthenticationError):
        handshake.read_verdict(one, server, client, handshake.verdict(other, server, response))


@given(tokens, st.data())
def test_a_changed_byte_is_refused(token: bytes | None, data: st.DataObject) -> None:
    server, client = handshake.new_nonce(), handshake.new_nonce()
    response = bytearray(handshake.respond(token, greeted(token, server), client))
    last = bytearray(handshake.verdict(token, server, bytes(response)))
    response[data.draw(st.integers(0, len(response) - 1))] ^= data.draw(st.integers(1, 255))
    assert not handshake.accepts_response(token, server, bytes(response))
    last[data.draw(st.integers(12, len(last) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AuthenticationError):
        handshake.read_verdict(token, server, client, bytes(last))


@given(st.binary(min_size=handshake.RESPONSE_SIZE, max_size=handshake.RESPONSE_SIZE), tokens)
def test_random_responses_are_refused_quietly(response: bytes, token: bytes | None) -> None:
    assert not handshake.accepts_response(token, handshake.new_nonce(), response)


@given(st.binary(min_size=handshake.GREETING_SIZE, max_size=handshake.GREETING_SIZE), tokens)
def test_random_greetings_come_from_no_store(data: bytes, token: bytes | None) -> None:
    with pytest.raises(ProtocolError, match="not a commops store"):
        handshake.read_greeting(token, data)


def test_an_old_proof_is_no_proof() -> None:
    token, client = b"secret", handshake.new_nonce()
    earlier, now = handshake.new_nonce(), handshake.new_nonce()
    assert not handshake.accepts_response(
        token, now, handshake.respond(token, greeted(token, earlier), client)
    )


def test_the_clients_proof_sent_back_is_not_the_servers() -> None:
    token, server, client = b"secret", handshake.new_nonce(), handshake.new_nonce()
    response = handshake.respond(token, greeted(token, server), client)
    mirrored = handshake.verdict(token, server, response)[:12] + response[-32:]
    with pytest.raises(AuthenticationError, match="did not prove"):
        handshake.read_verdict(token, server, client, mirrored)


def test_another_version_is_told_apart() -> None:
    greeting = bytearray(handshake.greet(None, handshake.new_nonce()))
    greeting[9] += 1
    with pytest.raises(ProtocolError, match="version"):
        handshake.read_greeting(None, bytes(greeting))


def test_reasons_for_a_refusal_are_told() -> None:
    for refusal, words in ((1, "another token"), (2, "another user"), (99, r"\(99\)")):
        data = bytearray(handshake.greet(None, bytes(32)))
        data[11] = refusal
        with pytest.raises(AuthenticationError, match=words):
            handshake.read_greeting(None, bytes(data))
        with pytest.raises(AuthenticationError, match=words):
            handshake.read_verdict(None, bytes(32), bytes(32), bytes(data))
