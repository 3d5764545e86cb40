"""A socket with TLS, for the two ends of a socket store."""

from __future__ import annotations

import hmac
import socket
import ssl
from typing import Any

__all__ = ["TLSSocket", "bound", "explain", "is_about_certificates"]


class TLSSocket(ssl.SSLSocket):
    """Like any other that does not block, it raises BlockingIOError where it would have to wait."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive what is there, of one record at most."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some of `data`. After a BlockingIOError, the next call must begin with the same."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


def bound(token: bytes | None, sock: socket.socket) -> bytes | None:
    """Return the token as the handshake over `sock` takes it.

    Under TLS that is one that fits this connection alone: who has a certificate and no token cannot pass on
    proofs between two others. The value that both ends have is their TLS handshake's first Finished message:
    a code over all of it, made with keys of this connection.
    """
    if token is None or not isinstance(sock, ssl.SSLSocket):
        return token
    unique = sock.get_channel_binding("tls-unique")
    if not unique:
        raise ssl.SSLError("the TLS of this Python does not tell one connection from another")
    return hmac.digest(token, b"commops store over TLS" + unique, "sha256")


# Of alerts: what somebody says who does not accept our certificate.
_ALERTS = (
    "CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)


def is_about_certificates(error: OSError) -> bool:
    """Say whether TLS has failed because a certificate was not accepted, by one end or the other."""
    if not isinstance(error, ssl.SSLError):
        return False
    return isinstance(error, ssl.SSLCertVerificationError) or any(
        word in (error.reason or "") for word in _ALERTS
    )


def explain(error: OSError) -> str:
    """Say in words why TLS has failed because of a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
    return f"it does not accept this process's certificate ({reason})"
