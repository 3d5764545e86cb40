"""What a rank shows the others under TLS, and whom it trusts: one file with a key and certificates."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from commops._core import native
from commops.rendezvous.token import is_descriptor, read_private

if TYPE_CHECKING:
    import ssl
    from os import PathLike

__all__ = ["Credentials", "credentials_file", "job_credentials", "load_credentials"]

_LONGEST = 1 << 20
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class Credentials:
    """A private key, its certificate, and those that it trusts. Printing it gives nothing away.

    Parameters
    ----------
    pem : bytes
        PEM: the private key, its certificate, then those that lead from it to the authority, the authority's
        too. Those after the first are trusted; one that is alone is trusted itself.
    origin : str
        Where they come from, for messages.

    Raises
    ------
    ValueError
        If key and certificates cannot be used.
    CommError
        If there is no OpenSSL 3 on this machine.
    """

    def __init__(self, pem: bytes, origin: str = "the credentials") -> None:
        try:
            native.check_tls(pem)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None
        self.pem = pem

    def __repr__(self) -> str:
        return "<credentials>"

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Return what Python's TLS needs for one side of a connection: 1.3, and certificates at both ends.

        Names are not compared: a certificate says that its holder belongs to the job, and the token which
        rank it is.
        """
        import ssl

        from commops.rendezvous.tls_socket import TLSSocket

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if server:
            context.num_tickets = 0
        certificates = _CERTIFICATE.findall(self.pem)
        trusted = b"\n".join(certificates[1:] or certificates)
        context.load_verify_locations(cadata=trusted.decode("ascii"))
        memory = os.memfd_create("commops-tls", os.MFD_CLOEXEC)  # keys are loaded from files only
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(self.pem)
            context.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
        context.sslsocket_class = TLSSocket
        return context


def credentials_file(environ: Mapping[str, str]) -> str | None:
    """Return the file that the environment names, or None where it asks for no TLS.

    Raises
    ------
    ValueError
        If it asks for TLS and names no file, or makes no sense.
    """
    wanted = environ.get("COMMOPS_TLS", "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"COMMOPS_TLS must be 0 or 1, not {wanted!r}")
    if wanted == "0":
        return None
    path = environ.get("COMMOPS_TLS_FILE")
    if path is None and wanted:
        raise ValueError(f"COMMOPS_TLS=1 asks for TLS, {_HINT}")
    return path


_HINT = (
    "which needs a file with this rank's key and certificates: set COMMOPS_TLS_FILE, or give tls= its path"
    " (`python -m commops.rendezvous.certificates job.pem` makes one for all ranks; `commops run --tls` does"
    " so by itself)"
)


def load_credentials(tls: bool | str | PathLike[str] | Credentials | None = None) -> Credentials | None:
    """Return what this rank has for TLS, or None where there is to be none.

    Parameters
    ----------
    tls : bool, str, PathLike or Credentials, optional
        The file: a regular one that only its owner may read, or a descriptor path such as
        ``/proc/self/fd/3``. True: that of ``COMMOPS_TLS_FILE``. None: the same if it is set, unless
        ``COMMOPS_TLS`` is 0. False: none. `Credentials` are returned as they are.

    Raises
    ------
    TypeError, ValueError
        If `tls` is of another type, or True without a file; if the file's content cannot be used.
    RendezvousError
        If the file cannot be read, is of another kind, or may be read by its group or by others.
    CommError
        If there is no OpenSSL 3 on this machine.
    """
    if isinstance(tls, Credentials):
        return tls
    if tls is None or tls is True:
        path = credentials_file(os.environ) if tls is None else os.environ.get("COMMOPS_TLS_FILE")
        origin = "COMMOPS_TLS_FILE"
        if path is None and tls:
            raise ValueError(f"tls=True asks for TLS, {_HINT}")
    elif tls is False:
        path = None
    elif isinstance(tls, str | os.PathLike):
        path, origin = os.fspath(tls), "tls"
    else:
        raise TypeError(f"tls must be the path of a file, True, False or None, not {tls!r}")
    if path is None:
        return None
    return _read_file(path, origin)


def _read_file(path: str, origin: str) -> Credentials:
    return Credentials(read_private(path, origin, _LONGEST), f"the file {path!r} of {origin}")


def job_credentials(tls: bool) -> Credentials | None:
    """Return what a launcher gives its ranks: those of the user's own file, or fresh ones; None without TLS.

    Parameters
    ----------
    tls : bool
        Whether the launcher was asked for TLS. So it is by ``COMMOPS_TLS=1`` and by ``COMMOPS_TLS_FILE``,
        unless ``COMMOPS_TLS`` is 0.

    Raises
    ------
    ImportError
        If they are to be made and cryptography is not installed.
    ValueError, RendezvousError, CommError
        As `load_credentials`.
    """
    wanted = os.environ.get("COMMOPS_TLS", "")
    path = os.environ.get("COMMOPS_TLS_FILE")
    if not tls and (wanted == "0" or (not wanted and path is None)):
        return None
    if not tls and wanted != "1":
        credentials_file(os.environ)  # for what it says of other values
    if path is not None and not is_descriptor(path):  # that of a job around this one is not for its ranks
        return _read_file(path, "COMMOPS_TLS_FILE")
    from commops.rendezvous.certificates import new_credentials

    return Credentials(new_credentials())
