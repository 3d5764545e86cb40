"""Becoming a rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from commops.comm import Comm
from commops.errors import RendezvousError

if TYPE_CHECKING:
    from commops.launch.environment import Environment
    from commops.rendezvous.store import Store

__all__ = ["init"]

_TRANSPORTS = ("auto", "shm", "tcp")
_worlds = 0  # how many this process has joined: each uses keys of its own, since a launcher's store outlives them


def init(
    rendezvous: str | Store | None = None,
    *,
    rank: int | None = None,
    size: int | None = None,
    transport: str = "auto",
    timeout: float = 60.0,
    token: str | bytes | None = None,
    tls: None = None,
) -> Comm:
    """Join the job that this process was started in, and return the communicator of all its ranks.

    Under ``commops run``, `commops.launch`, torchrun, srun, or an mpirun of Open MPI, MPICH or Intel MPI, no argument
    is needed. Started alone, and without arguments, the process is the only rank.

    Parameters
    ----------
    rendezvous : str or Store, optional
        Where the ranks meet: ``tcp://host:port`` (rank 0 serves it), ``file:///folder``,
        ``redis://host:port/prefix`` or a `Store`. Also ``COMMOPS_RENDEZVOUS``.
    rank, size : int, optional
        This process's number and the number of ranks, where no launcher says.
    transport : {"auto", "shm", "tcp"}
        ``auto`` is shared memory between ranks of a host and TCP between hosts. Also ``COMMOPS_TRANSPORT``.
    timeout : float
        Seconds in which the ranks must meet, and in which each later call must end; ``comm.timeout`` may be set.
    token : str or bytes, optional
        The secret that all ranks of the job share. Also ``COMMOPS_TOKEN`` or ``COMMOPS_TOKEN_FILE``. Without one
        only loopback addresses are used.
    tls : None
        Reserved.

    Returns
    -------
    Comm

    Raises
    ------
    RendezvousError
        If the ranks do not find each other or do not fit together: a store that does not answer, a duplicate rank, another size.
    AuthenticationError
        If a peer or the store has another token.
    TypeError, ValueError
        If an argument, or a variable of the environment, is wrong.
    """
    transport = _check(transport, timeout, tls)
    place = _place(rendezvous, rank, size)
    if place is None:
        return _solitary(timeout)
    number, count, where, environment = place
    if count == 1 and where is None:
        return _solitary(timeout)
    if where is None:
        raise RendezvousError(
            environment.hint
            if environment
            else "where do the ranks meet? Give rendezvous='tcp://host:port' (or set COMMOPS_RENDEZVOUS) on all ranks"
        )
    return _join(where, number, count, transport, timeout, token, environment)


def _check(transport: str, timeout: float, tls: None) -> str:
    if transport == "auto":
        transport = os.environ.get("COMMOPS_TRANSPORT") or "auto"
    if transport not in _TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(_TRANSPORTS)}, not {transport!r}")
    if not isinstance(timeout, int | float) or not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    if tls is not None:
        raise NotImplementedError("tls is not available in this version: pass None")
    return transport


def _place(
    rendezvous: str | Store | None, rank: int | None, size: int | None
) -> tuple[int, int, str | Store | None, Environment | None] | None:
    """Return (rank, size, where to meet, environment), or None for a process that is alone."""
    if (rank is None) != (size is None):
        raise ValueError(f"rank and size go together: rank={rank}, size={size}")
    if rank is not None and size is not None:
        if not isinstance(rank, int) or not isinstance(size, int):
            raise TypeError(f"rank and size must be whole numbers, not {rank!r} and {size!r}")
        if not 0 <= rank < size:
            raise ValueError(f"rank must be from 0 to size - 1 = {size - 1}, not {rank}")
        return rank, size, rendezvous or os.environ.get("COMMOPS_RENDEZVOUS"), None
    from commops.launch.environment import detect

    found = detect(os.environ)
    if found is None:
        if rendezvous is not None:
            raise ValueError("rendezvous is given but not who this process is: pass rank and size too")
        return None
    return found.rank, found.size, rendezvous or found.rendezvous, found


def _solitary(timeout: float) -> Comm:
    from commops.rendezvous.bootstrap import alone

    return Comm._of_world(alone(), timeout)


def _join(
    where: str | Store, rank: int, size: int, transport: str, timeout: float, token: str | bytes | None,
    environment: Environment | None,
) -> Comm:  # fmt: skip
    global _worlds
    from commops.rendezvous.bootstrap import meet
    from commops.rendezvous.prefix_store import PrefixStore
    from commops.rendezvous.store import Store
    from commops.rendezvous.token import load_token
    from commops.rendezvous.url import open_store

    secret = load_token(token)
    loopback = _stays_inside(where)
    if not loopback and secret is None:
        raise RendezvousError(
            f"ranks that meet at {where} can be reached from other machines, so they need a token: set COMMOPS_TOKEN_FILE"
            " (or COMMOPS_TOKEN) to the same secret on all of them"
        )
    serves = rank == 0 and not (environment is not None and environment.store_is_served)
    store = open_store(where, is_server=serves, token=secret, timeout=timeout)
    try:
        keys = PrefixStore(f"world-{_worlds}", store)
        world = meet(
            keys, rank, size, transport=transport, token=secret, loopback=loopback, timeout=timeout, serves=serves
        )
        _worlds += 1
    finally:
        if not isinstance(where, Store):
            store.close()
    return Comm._of_world(world, timeout)


def _stays_inside(where: str | Store) -> bool:
    """Say whether ranks that meet there are all on this machine, as far as the address tells."""
    wanted = os.environ.get("COMMOPS_INTERFACE", "")
    if wanted:
        if wanted not in ("loopback", "any"):
            raise ValueError(f"COMMOPS_INTERFACE={wanted}: it must be 'loopback' or 'any'")
        return wanted == "loopback"
    if not isinstance(where, str):
        return True
    parts = urlsplit(where)
    if parts.scheme not in ("tcp", "redis"):
        return True
    host = parts.hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")
