"""How the two ends of a socket store prove the token to each other, before anything else is read.

The server speaks first. Three messages of fixed length, in network byte order:

      greeting, server to client; verdict, server to client
      0           8           10        11         12                     44
      +-----------+-----------+---------+----------+----------------------+
      | magic     | version   | flags   | refusal  | nonce (greeting) or  |
      | 8 bytes   | uint16    | uint8   | uint8    | proof (verdict)      |
      +-----------+-----------+---------+----------+----------------------+

      response, client to server
      0           8           10        11         12            44                 76
      +-----------+-----------+---------+----------+-------------+------------------+
      | magic     | version   | flags   | zero     | nonce       | proof            |
      +-----------+-----------+---------+----------+-------------+------------------+

Flags is 1 where that side has a token, else 0. Refusal is a `Refusal`. A nonce is 32 fresh random bytes. The
proof of a role ("client" or "server") is

      HMAC-SHA256(token, "commops store" ‖ version ‖ flags ‖ role ‖ server's nonce ‖ client's nonce)

so neither a proof heard earlier nor the other side's own proof sent back will do. The client proves itself
first: a stranger who can reach the port learns nothing that depends on the token. Without a token on
both sides the key is empty, and the exchange shows only that both speak this protocol.

With TLS all of this is said inside it, and the key is not the token itself but `tls_socket.bound` to the
connection.
"""

from __future__ import annotations

import enum
import hmac
import os
import struct

from commops.errors import AuthenticationError
from commops.rendezvous.tcp_protocol import ProtocolError

__all__ = [
    "GREETING_SIZE",
    "RESPONSE_SIZE",
    "Refusal",
    "accepts_response",
    "decline",
    "greet",
    "new_nonce",
    "read_greeting",
    "read_verdict",
    "respond",
    "verdict",
]

_MAGIC = b"commops\x00"
_VERSION = 1
_SHORT = struct.Struct("!8sHBB32s")
_LONG = struct.Struct("!8sHBB32s32s")

GREETING_SIZE = _SHORT.size
"""Bytes of a greeting and of a verdict."""

RESPONSE_SIZE = _LONG.size
"""Bytes of a response: all that a server reads from a peer before it knows it."""


class Refusal(enum.IntEnum):
    """Why a server sends a client away. The values are on the wire."""

    NONE = 0
    TOKEN = 1
    USER = 2
    PLAIN = 3


def new_nonce() -> bytes:
    """Return 32 fresh random bytes."""
    return os.urandom(32)


def greet(token: bytes | None, nonce: bytes, refusal: Refusal = Refusal.NONE) -> bytes:
    """Return the server's greeting."""
    return _SHORT.pack(_MAGIC, _VERSION, _flags(token), refusal, nonce)


def respond(token: bytes | None, server_nonce: bytes, nonce: bytes) -> bytes:
    """Return the client's response to a greeting."""
    proof = _proof(token, b"client", server_nonce, nonce)
    return _LONG.pack(_MAGIC, _VERSION, _flags(token), 0, nonce, proof)


def decline(token: bytes | None) -> bytes:
    """Return a response that proves nothing, so that the server knows why the client leaves."""
    return _LONG.pack(_MAGIC, _VERSION, _flags(token), 0, bytes(32), bytes(32))


def verdict(token: bytes | None, server_nonce: bytes, response: bytes) -> bytes:
    """Return the server's last word to a client whose response it accepts."""
    client_nonce = _LONG.unpack(response)[4]
    proof = _proof(token, b"server", server_nonce, client_nonce)
    return _SHORT.pack(_MAGIC, _VERSION, _flags(token), Refusal.NONE, proof)


def accepts_response(token: bytes | None, server_nonce: bytes, response: bytes) -> bool:
    """Say whether a response of `RESPONSE_SIZE` bytes, whatever they are, proves the token."""
    magic, version, flags, zero, client_nonce, proof = _LONG.unpack(response)
    if (magic, version, flags, zero) != (_MAGIC, _VERSION, _flags(token), 0):
        return False
    return hmac.compare_digest(proof, _proof(token, b"client", server_nonce, client_nonce))


def read_greeting(token: bytes | None, data: bytes) -> bytes:
    """Check a greeting of `GREETING_SIZE` bytes and return the server's nonce.

    Raises
    ------
    ProtocolError
        If it comes from no store, or from a version that is not ours.
    AuthenticationError
        If the server refuses this user, or has a token where this side has none, or the reverse.
    """
    flags, refusal, nonce = _read_short(data)
    _raise_refusal(refusal)
    if flags and not token:
        raise AuthenticationError(
            "the store asks for a token and none is set here: give token=, COMMOPS_TOKEN or "
            "COMMOPS_TOKEN_FILE"
        )
    if token and not flags:
        raise AuthenticationError(
            "a token is set here and the store has none, so it may not be this job's: start it with the "
            "same token"
        )
    return nonce


def read_verdict(token: bytes | None, server_nonce: bytes, client_nonce: bytes, data: bytes) -> None:
    """Check a verdict of `GREETING_SIZE` bytes.

    Raises
    ------
    ProtocolError
        If it comes from no store, or from a version that is not ours.
    AuthenticationError
        If the server refuses this side's token, or does not prove its own.
    """
    _, refusal, proof = _read_short(data)
    _raise_refusal(refusal)
    if not hmac.compare_digest(proof, _proof(token, b"server", server_nonce, client_nonce)):
        raise AuthenticationError("whoever answers there did not prove that it holds this job's token")


_REFUSALS = {
    Refusal.TOKEN.value: "the store holds another token, or none: give every rank of the job the same one",
    Refusal.USER.value: "the store belongs to another user than this process runs as",
    Refusal.PLAIN.value: "the store speaks TLS and this process does not: give every rank tls= or "
    "COMMOPS_TLS_FILE, or none",
}


def _raise_refusal(refusal: int) -> None:
    if refusal != Refusal.NONE:
        reason = _REFUSALS.get(refusal, f"for a reason that this version does not know ({refusal})")
        raise AuthenticationError(f"refused: {reason}")


def _read_short(data: bytes) -> tuple[int, int, bytes]:
    magic, version, flags, refusal, rest = _SHORT.unpack(data)
    if magic != _MAGIC:
        raise ProtocolError("what answers there is not a commops store")
    if version != _VERSION:
        raise ProtocolError(
            f"the store speaks version {version} of the protocol and this side version {_VERSION}: "
            "install the same commops everywhere"
        )
    return flags, refusal, rest


def _flags(token: bytes | None) -> int:
    return 1 if token else 0


def _proof(token: bytes | None, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    text = b"commops store" + struct.pack("!HB", _VERSION, _flags(token)) + role + server_nonce + client_nonce
    return hmac.digest(token or b"", text, "sha256")
