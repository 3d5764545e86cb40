"""How this process becomes one of the ranks of a job: what it brings, and what it makes of what others bring.

How the ranks agree is in `meeting`; how those of one host hand each other the descriptors by which they share
memory, in `handover`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from commops import tuned
from commops._core import engine as core
from commops.errors import RendezvousError
from commops.rendezvous import addresses, handover
from commops.rendezvous.card import Card
from commops.rendezvous.credentials import Credentials
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.engine import doorbell, make_engine, share
from commops.rendezvous.meeting import Meeting, described
from commops.rendezvous.plan import Plan
from commops.rendezvous.store import Store
from commops.rendezvous.token import Token

__all__ = ["World", "alone", "meet"]


class World(NamedTuple):
    """A rank's engine, and what the ranks know of each other.

    Attributes
    ----------
    engine : native Engine
    hosts : tuple of str
        Name of the host of each rank.
    """

    engine: Any
    hosts: tuple[str, ...]


def alone() -> World:
    """Return the world of a single rank, which needs nobody."""
    window = core.Window(1)
    names = [addresses.host_name()]
    engine = make_engine(
        0,
        [0],
        window,
        [(-1, doorbell(), -1)],
        share=False,
        job=bytes(16),
        token=b"",
        tunables={},
        host_names=names,
    )
    return World(engine, tuple(names))


def meet(
    store: Store,
    rank: int,
    size: int,
    *,
    transport: str,
    token: Token | None,
    tls: Credentials | None,
    interface: str,
    deadline: Deadline,
    generation: int = 0,
    outlives: bool = False,
    watch: Callable[[], str] | None = None,
) -> World:
    """Meet the other ranks.

    Parameters
    ----------
    store : Store
        Where cards are exchanged; nothing else may use its keys.
    rank, size : int
    transport : {"auto", "shm", "tcp"}
    token : Token, optional
        None is accepted where strangers cannot reach the ranks; a key for this world is then made up.
    tls : Credentials, optional
        What this rank shows the others, where all speak TLS over TCP.
    interface : str
        Where to listen, as `addresses.choose` takes it.
    deadline : Deadline
        For everything.
    generation : int
        Of the world: one more than that of the world out of which it has grown.
    outlives, watch
        As `Meeting` has them.

    Raises
    ------
    RendezvousError
        If the ranks do not fit together, or not all of them come by the deadline. The message names them.
    AuthenticationError
        If ranks have different tokens.
    """
    try:
        meeting = Meeting(store, rank, size, token, deadline, outlives=outlives, watch=watch)
        with contextlib.closing(_Sockets()) as sockets:
            try:
                sockets.open(transport, interface)
                card = _card(rank, size, transport, tls is not None, sockets)
                table = tuned.in_force()[0] if rank == 0 else None
            except Exception as error:
                meeting.forfeit(error)
                raise
            plan, engine = meeting.hold(
                card,
                lambda cards: _tunables(cards, table),
                lambda plan, waiting, check: _engine(
                    rank, plan, sockets, token, tls, generation, waiting, check
                ),
            )
    except OSError as error:
        raise RendezvousError(f"rank {rank} cannot join: {described(error)}") from error
    return World(engine, tuple(card.host_name for card in plan.cards))


# ---- what a rank brings


class _Sockets:
    """Where this rank can be reached while it joins.

    Attributes
    ----------
    local : socket or None
        Where it hands over descriptors; None where it shares no memory.
    local_name : str
        Name of that in the abstract namespace.
    listeners : list of socket
        For the other hosts.
    addresses : str
        Of those, as they stand on the card.
    loopback : bool
        Whether only this machine reaches those.
    """

    def __init__(self) -> None:
        self.local: socket.socket | None = None
        self.local_name = ""
        self.listeners: list[socket.socket] = []
        self.addresses = ""
        self.loopback = True

    def open(self, transport: str, interface: str) -> None:
        """Open what the transport needs."""
        if transport != "tcp":
            self.local_name = f"commops-{os.urandom(16).hex()}"
            self.local = handover.open_socket(self.local_name)
        if transport != "shm":
            chosen = addresses.choose(interface)
            self.loopback = all(address.is_loopback for address in chosen)
            self.listeners, self.addresses = addresses.listen(chosen)

    def close(self) -> None:
        """Close what has not been handed on."""
        for sock in (*self.listeners, *([self.local] if self.local else [])):
            sock.close()


def _card(rank: int, size: int, transport: str, tls: bool, sockets: _Sockets) -> Card:
    from commops import __version__

    machine = addresses.machine_key()
    return Card(
        rank=rank,
        size=size,
        transport=transport,
        version=__version__,
        machine=machine,
        host=f"{machine} {os.environ.get('COMMOPS_HOST', '')}",
        host_name=addresses.host_name(),
        process=os.getpid(),
        unix=sockets.local_name,
        addresses=sockets.addresses,
        tls=tls,
        loopback=sockets.loopback,
        tunables={
            one.name: one.value
            for one in tuned.tunables({})
            if one.origin == "environment" and one.name not in tuned.OWN
        },
        nonce=os.urandom(16).hex(),
    )


# ---- what it makes of that


def _tunables(cards: Sequence[Card], table: tuned.Table | None) -> dict[str, int]:
    """As rank 0: decide on the tunables of a world of these ranks, whose environments are alike."""
    chosen: dict[str, int] = {}
    first = cards[0]
    if table:
        near = sum(card.host == first.host for card in cards) if first.transport != "tcp" else 1
        if near > 1:
            chosen |= table.values("shm", near)
        # A table knows the sockets of its own machine, not a network.
        if near < len(cards) and all(card.machine == first.machine for card in cards):
            chosen |= table.values("tcp", len(cards))
    return {one.name: one.value for one in tuned.tunables(chosen) if one.name not in tuned.OWN}


def _engine(
    rank: int,
    plan: Plan,
    sockets: _Sockets,
    token: Token | None,
    tls: Credentials | None,
    generation: int,
    deadline: Deadline,
    check: Callable[[], None],
) -> Any:
    """Share memory with the ranks of this host, and make the engine."""
    shares = bool(sockets.local)
    names = [card.host if shares else str(card.rank) for card in plan.cards]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    hosts = [numbers[name] for name in names]
    neighbours = [other for other, host in enumerate(hosts) if host == hosts[rank]]
    remote = len(neighbours) < len(hosts)
    window = core.Window(len(neighbours))
    key = token or Token(plan.key.encode())
    return make_engine(
        rank,
        hosts,
        window,
        share(rank, neighbours, plan.cards, window, key, sockets.local, deadline, check),
        share=shares,
        listeners=sockets.listeners if remote else [],
        places=[card.addresses for card in plan.cards] if remote else [],
        job=bytes.fromhex(plan.job),
        token=key,
        tunables=plan.tunables,
        host_names=[card.host_name for card in plan.cards],
        generation=generation,
        tls=tls.pem if tls else None,
    )
