"""Which store a rendezvous address means."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from commops.rendezvous.deadline import DEFAULT_TIMEOUT
from commops.rendezvous.store import Store
from commops.rendezvous.token import load_token

if TYPE_CHECKING:
    from os import PathLike

    from commops.rendezvous.credentials import Credentials

__all__ = ["open_store"]

# Each kind of store is imported where it is opened: a rank needs one of them, and starts sooner for it.

_FORMS = (
    "tcp://host:port (an IPv6 address in brackets), file:///folder, "
    "redis://[user:password@]host[:port]/prefix, unix:name"
)
_REDIS_PORT = 6379


def open_store(
    rendezvous: str | Store,
    *,
    is_server: bool,
    token: str | bytes | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    tls: bool | str | PathLike[str] | Credentials | None = None,
) -> Store:
    """Return the store that `rendezvous` names.

    Parameters
    ----------
    rendezvous : str or Store
        ``tcp://host:port``, ``file:///folder``, ``redis://host:port/prefix`` or ``unix:name``; a Store is
        returned as it is.
    is_server : bool
        Whether this process serves the store, where the kind has a server among the ranks (tcp and unix).
    token : str or bytes, optional
        The job's secret for those kinds; otherwise what `load_token` finds in the environment.
    timeout : float
        Default time-out of the store's calls, and of opening it, in seconds.
    tls : bool, str, PathLike or Credentials, optional
        Whether and with what a tcp store speaks TLS, as `load_credentials` takes it; by default what that
        finds in the environment.

    Raises
    ------
    ValueError
        If the address has none of the forms.
    RendezvousError
        If the store cannot be opened (see each kind).
    """
    if isinstance(rendezvous, Store):
        return rendezvous
    if not isinstance(rendezvous, str):
        raise TypeError(f"rendezvous must be a str or a Store, not {type(rendezvous).__name__}")
    scheme, colon, rest = rendezvous.partition(":")
    if colon and scheme == "unix":
        if not rest:
            raise _bad(rendezvous, "the name is missing")
        from commops.rendezvous.tcp_store import UnixStore

        return UnixStore(rest, is_server=is_server, token=load_token(token), timeout=timeout)
    try:
        parts = urlsplit(rendezvous)
        port = parts.port
    except ValueError as error:
        raise _bad(rendezvous, str(error)) from None
    match parts.scheme:
        case "tcp":
            return _open_tcp(rendezvous, parts, port, is_server, token, timeout, tls)
        case "file":
            return _open_file(rendezvous, parts, timeout)
        case "redis":
            return _open_redis(rendezvous, parts, port, timeout)
        case _:
            raise _bad(rendezvous, f"no kind of store is called {scheme!r}" if colon else "it has no scheme")


def _open_tcp(
    url: str,
    parts: SplitResult,
    port: int | None,
    is_server: bool,
    token: str | bytes | None,
    timeout: float,
    tls: bool | str | PathLike[str] | Credentials | None,
) -> Store:
    if not parts.hostname:
        raise _bad(url, "the host is missing")
    if port is None:
        raise _bad(url, "the port is missing")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise _bad(url, "only a host and a port belong in it")
    if port == 0 and not is_server:
        raise _bad(url, "port 0 lets a server choose; a client needs the port that the server got")
    from commops.rendezvous.credentials import load_credentials
    from commops.rendezvous.tcp_store import TCPStore

    return TCPStore(
        parts.hostname,
        port,
        is_server=is_server,
        token=load_token(token),
        timeout=timeout,
        tls=load_credentials(tls),
    )


def _open_file(url: str, parts: SplitResult, timeout: float) -> Store:
    if parts.netloc or not parts.path.startswith("/") or parts.path.strip("/") == "":
        raise _bad(url, "it needs three slashes and the full path of a folder")
    if parts.query or parts.fragment:
        raise _bad(url, "write ? as %3F and # as %23")
    from commops.rendezvous.file_store import FileStore

    return FileStore(unquote(parts.path), timeout=timeout)


def _open_redis(url: str, parts: SplitResult, port: int | None, timeout: float) -> Store:
    prefix = unquote(parts.path[1:])
    if not parts.hostname:
        raise _bad(url, "the host is missing")
    if not prefix:
        raise _bad(url, "the prefix is missing: without one, jobs that share a server would mix their keys")
    if parts.query or parts.fragment:
        raise _bad(url, "write ? as %3F and # as %23")
    from commops.rendezvous.redis_store import RedisStore

    return RedisStore(
        parts.hostname,
        _REDIS_PORT if port is None else port,
        prefix,
        username=None if not parts.username else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        timeout=timeout,
    )


def _bad(url: str, why: str) -> ValueError:
    if "@" in url:  # what stands before it may be a password
        url = url.partition("://")[0] + "://…@" + url.rpartition("@")[2]
    return ValueError(f"{url!r} is no rendezvous address: {why}. The forms are: {_FORMS}")
