"""Becoming a rank."""

from __future__ import annotations

import contextlib
import operator
import os
from typing import TYPE_CHECKING, NamedTuple

from commops.comm import Comm
from commops.errors import RendezvousError
from commops.stacks import offer

if TYPE_CHECKING:
    from os import PathLike

    from commops.rendezvous.credentials import Credentials
    from commops.rendezvous.entrance import Entrance
    from commops.rendezvous.store import Store

__all__ = ["init"]

_TRANSPORTS = ("auto", "shm", "tcp")
_MOMENT = 1.0  # seconds that a rank which cannot join spends at most on telling the others


def init(
    rendezvous: str | Store | None = None,
    *,
    rank: int | None = None,
    size: int | None = None,
    transport: str = "auto",
    timeout: float = 60.0,
    token: str | bytes | None = None,
    tls: bool | str | PathLike[str] | None = None,
) -> Comm:
    """Join the job that this process was started in, and return the communicator of all its ranks.

    Under ``commops run``, `commops.launch`, torchrun, srun, or an mpirun of Open MPI, MPICH or Intel MPI, no
    argument is needed. Started alone, and without arguments, the process is the only rank.

    Either every rank returns from this or none does: what goes wrong on one is an error on all, at once
    wherever it can be told. A process may join several jobs, one after the other or at once.

    Parameters
    ----------
    rendezvous : str or Store, optional
        Where the ranks meet: ``tcp://host:port`` (rank 0 serves it), ``file:///folder`` (made for the moment
        if it is missing), ``redis://host:port/prefix``, ``unix:name`` (ranks of one machine; rank 0 serves
        it) or a `Store`. Also ``COMMOPS_RENDEZVOUS``.
    rank, size : int, optional
        This process's number and the number of ranks, where no launcher says.
    transport : {"auto", "shm", "tcp"}
        ``auto`` is shared memory between ranks of a host and TCP between hosts. Also ``COMMOPS_TRANSPORT``.
    timeout : float
        Seconds in which the ranks must meet, and in which each later call must end; ``comm.timeout`` may be
        set.
    token : str or bytes, optional
        The secret that all ranks of the job share. Also ``COMMOPS_TOKEN`` or ``COMMOPS_TOKEN_FILE``. Without
        one only loopback addresses are used.
    tls : bool, str or PathLike, optional
        With TLS 1.3 what goes over TCP, data and ``tcp:`` store, is encrypted, and both ends of a connection
        prove a certificate, before they prove the token. All ranks must have it, or none. It is the path of a
        PEM file that only you may read: a private key, its certificate, then those that lead from it to the
        authority, the authority's too. True: the file that ``COMMOPS_TLS_FILE`` names, as ``commops run
        --tls`` sets it; None: the same if it is set; False: no TLS. Names in certificates are not looked at:
        whoever has one from that authority, and the token, is a rank. Ranks that share memory need none
        between them.

    Returns
    -------
    Comm

    Raises
    ------
    RendezvousError
        If the ranks do not find each other or do not fit together: a store that does not answer, a port in
        use, a duplicate rank, another size, a rank that does not come (the message names it).
    AuthenticationError
        If a peer or the store has another token.
    TypeError, ValueError
        If an argument, or a variable of the environment, is wrong.

    Notes
    -----
    Ranks that need TCP listen on loopback only, unless `rendezvous` is a ``tcp:`` or ``redis:`` address of
    another kind; then on every address of the machine. ``COMMOPS_INTERFACE`` says otherwise: ``loopback``,
    ``any``, the name of a network interface, an address, or a network such as ``10.0.0.0/8`` (see
    `commops.rendezvous.addresses`). Ranks that other machines can reach need a token. Ranks that differ in
    ``COMMOPS_HOST`` count as on different hosts, by which several hosts can be tried out on one machine.
    """
    place = _place(rendezvous, rank, size)
    try:
        transport = _checked_transport(transport)
        timeout = _checked_timeout(timeout)
        credentials = _credentials(tls, place.size)
    except Exception as error:
        _forfeit(place, token, tls, error)
        raise
    if place.size == 1:
        from commops.rendezvous.bootstrap import alone

        entrance = None
        if place.where is not None:  # it needs nobody now, but others may join it later
            with contextlib.suppress(Exception):  # which then is an error there
                entrance = _entrance(place, transport, token, _credentials(tls, 2))
        comm = Comm._of_world(alone(), timeout, entrance=entrance)
    else:
        comm = _join(place, transport, timeout, token, credentials)
    offer()
    return comm


class _Place(NamedTuple):
    """Who this process is, and where the ranks meet.

    Attributes
    ----------
    rank, size : int
        Both 0 for a newcomer to a group that runs.
    where : str, Store or None
    served : bool
        Whether the launcher serves the store there, so that rank 0 must not.
    hint : str
        What to do where `where` is None.
    """

    rank: int
    size: int
    where: str | Store | None
    served: bool
    hint: str


def _checked_transport(transport: str) -> str:
    origin = "transport"
    if transport == "auto" and os.environ.get("COMMOPS_TRANSPORT"):
        origin, transport = "COMMOPS_TRANSPORT", os.environ["COMMOPS_TRANSPORT"]
    if transport not in _TRANSPORTS:
        raise ValueError(f"{origin} must be one of {', '.join(_TRANSPORTS)}, not {transport!r}")
    return transport


def _checked_timeout(timeout: float) -> float:
    try:
        seconds = float(timeout)
    except (TypeError, ValueError):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}") from None
    if not seconds > 0:  # also for NaN
        raise ValueError(f"timeout must be above 0 seconds, not {timeout!r}")
    return seconds


def _place(rendezvous: str | Store | None, rank: int | None, size: int | None) -> _Place:
    """Find out who this process is: from the arguments, or else from the launcher, or else alone."""
    from commops.launch.environment import detect

    if os.environ.get("COMMOPS_JOIN", "0") not in ("", "0"):
        hint = "COMMOPS_JOIN is set, but where is the group? Set COMMOPS_RENDEZVOUS to where its ranks met"
        return _Place(0, 0, rendezvous or os.environ.get("COMMOPS_RENDEZVOUS"), True, hint)
    if (rank is None) != (size is None):
        raise ValueError(f"rank and size go together: rank={rank}, size={size}")
    where = rendezvous or os.environ.get("COMMOPS_RENDEZVOUS")
    # Where both are set, the address is the launcher's, and so is the store.
    served = not rendezvous and {"COMMOPS_JOB", "COMMOPS_RENDEZVOUS"} <= os.environ.keys()
    hint = (
        "where do the ranks meet? Give rendezvous='tcp://host:port', the host being that of rank 0, or set"
        " COMMOPS_RENDEZVOUS, on all ranks"
    )
    if rank is not None and size is not None:
        number, count = _checked_integer("rank", rank), _checked_integer("size", size)
        if not 0 <= number < count:
            raise ValueError(f"rank must be from 0 to size - 1 = {count - 1}, not {number}")
        return _Place(number, count, where, served, hint)
    found = detect(os.environ)
    if found is not None:
        return _Place(found.rank, found.size, rendezvous or found.rendezvous, served, found.hint)
    if rendezvous is not None:
        raise ValueError(f"rendezvous is {rendezvous!r}, but who is this process? Pass rank and size too")
    return _Place(0, 1, None, False, hint)


def _checked_integer(name: str, value: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None


def _credentials(tls: bool | str | PathLike[str] | None, size: int) -> Credentials | None:
    if tls is None and not os.environ.keys() & {"COMMOPS_TLS", "COMMOPS_TLS_FILE"}:
        return None
    if size == 1 and (tls is None or tls is True):  # it connects to nobody
        return None
    from commops.rendezvous.credentials import load_credentials

    return load_credentials(tls)


def _join(
    place: _Place, transport: str, timeout: float, token: str | bytes | None, tls: Credentials | None
) -> Comm:
    from commops.rendezvous.deadline import Deadline

    deadline = Deadline(timeout)
    entrance = _entrance(place, transport, token, tls)
    if place.size == 0:
        from commops import growth

        entrance.use()
        try:
            world, generation = growth.join(entrance, timeout)
            # Once: the next group that this process joins begins with it, and its children are no newcomers.
            os.environ.pop("COMMOPS_JOIN", None)
            return Comm._of_world(world, timeout, generation, entrance)
        finally:
            entrance.leave()
    with entrance.opened(timeout, serves=place.rank == 0 and not place.served) as store:
        world = entrance.meet(store, "world", place.rank, place.size, deadline)
        # Each of them, because any of them may end just after it has returned from here.
        if place.served and "COMMOPS_ELASTIC" in os.environ:
            from commops.rendezvous.waiting import BEGUN, PART

            store.set(f"{PART}/{BEGUN}", b"")
    return Comm._of_world(world, timeout, entrance=entrance)


def _entrance(place: _Place, transport: str, token: str | bytes | None, tls: Credentials | None) -> Entrance:
    """Make out of what this process was told how it, and others after it, can join."""
    from commops import growth  # noqa: F401  now: a call of `grow` may find no descriptor left to read it by
    from commops.rendezvous.entrance import Entrance
    from commops.rendezvous.token import load_token

    if place.where is None:
        raise RendezvousError(place.hint)
    secret = load_token(token)
    interface = _interface(place.where)
    if interface != "loopback" and secret is None:
        raise RendezvousError(
            f"ranks that meet at {place.where} (COMMOPS_INTERFACE={interface}) can be reached from other"
            " machines, so they need a token: set COMMOPS_TOKEN_FILE (or COMMOPS_TOKEN) to the same secret on"
            " all of them"
        )
    return Entrance(
        place.where, place.served, transport=transport, token=secret, tls=tls, interface=interface
    )


def _forfeit(
    place: _Place, token: str | bytes | None, tls: bool | str | PathLike[str] | None, error: Exception
) -> None:
    """Tell the other ranks why this one will not come, where that can be done in a moment."""
    # What goes wrong with rank 0 of a launcher is the launcher's to tell.
    if place.size <= 1 or place.where is None or (place.rank == 0 and place.served):
        return
    from commops.rendezvous.deadline import Deadline
    from commops.rendezvous.entrance import Entrance
    from commops.rendezvous.meeting import Meeting
    from commops.rendezvous.prefix_store import PrefixStore
    from commops.rendezvous.token import load_token

    with contextlib.suppress(Exception):  # the error itself is raised in any case
        secret = load_token(token)
        credentials = None  # where they are what is wrong, a file or Redis can still be told
        with contextlib.suppress(Exception):
            credentials = _credentials(tls, place.size)
        entrance = Entrance(
            place.where,
            place.served,
            transport="auto",
            token=secret,
            tls=credentials,
            interface="loopback",
        )
        with entrance.opened(_MOMENT, serves=place.rank == 0) as store:
            part = PrefixStore("world", store)
            Meeting(part, place.rank, place.size, secret, Deadline(_MOMENT)).forfeit(error)


def _interface(where: str | Store) -> str:
    """Say where ranks that meet there listen, as a value of COMMOPS_INTERFACE."""
    chosen = os.environ.get("COMMOPS_INTERFACE", "")
    if chosen == "lo":
        return "loopback"
    if chosen:
        return chosen
    if not isinstance(where, str) or not where.startswith(("tcp:", "redis:")):
        return "loopback"
    from urllib.parse import urlsplit

    parts = urlsplit(where)
    host = parts.hostname or ""
    return "loopback" if host in ("localhost", "::1") or host.startswith("127.") else "any"
