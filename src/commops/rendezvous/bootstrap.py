"""How the ranks of a job meet: who is where, do they agree, and what does the core need to connect them.

Every rank publishes a card (its host, addresses, process, version and settings) under ``rank/<number>``. Rank 0 reads
all of them, checks that they fit together, and publishes the world, or why there can be none, under ``world``;
so a mistake on one rank is the same error on all. Ranks of one host then hand each other the descriptors by which
they share memory (`handover`). A store may be used by several worlds, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from typing import Any

from commops._core import native
from commops.errors import RendezvousError
from commops.rendezvous import handover
from commops.rendezvous.addresses import host_key, listen
from commops.rendezvous.store import Store
from commops.rendezvous.token import Token

__all__ = ["World", "alone", "meet"]

# Settings that ranks which share memory, or exchange messages, must have alike.
_COMMON_TUNABLES = ("slot_bytes", "slots", "eager_bytes", "eager_window", "doubling_bytes")


@dataclass(frozen=True)
class World:
    """A rank's engine, and what the ranks know of each other.

    Attributes
    ----------
    engine : native Engine
    hosts : tuple of str
        Name of the host of each rank.
    """

    engine: Any
    hosts: tuple[str, ...]


def _host_name() -> str:
    return os.environ.get("COMMOPS_HOST") or socket.gethostname()


def alone() -> World:
    """Return the world of a single rank, which needs nobody."""
    window = native.Window(1)
    engine = native.Engine(
        0, 1, [0], window, [(-1, _doorbell(), -1)], share=False, listeners=[], addresses=[], job=bytes(16), token=b""
    )
    return World(engine, (_host_name(),))


def meet(
    store: Store, rank: int, size: int, *, transport: str, token: Token | None, loopback: bool, timeout: float, serves: bool
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
    loopback : bool
        Listen on loopback addresses only.
    timeout : float
        Seconds for everything.
    serves : bool
        This rank serves the store, so it must be the last to leave it.

    Raises
    ------
    RendezvousError
        If the ranks do not fit together, or not all of them come within the time-out. The message names them.
    """
    deadline = time.monotonic() + timeout
    sockets: list[socket.socket] = []
    try:
        unix_name = f"commops-{secrets.token_hex(16)}"
        local = handover.open_socket(unix_name)
        sockets.append(local)
        addresses: list[str] = []
        listeners: list[socket.socket] = []
        if transport != "shm":
            listeners, addresses = listen(loopback=loopback)
            sockets += listeners
        card = _card(rank, size, transport, unix_name, addresses)
        _publish(store, rank, card, deadline)
        world = _gather(store, rank, size, token, deadline) if rank == 0 else _await_world(store, size, deadline)
        if "error" in world:
            raise RendezvousError(world["error"])
        cards = world["cards"]
        if cards[rank]["nonce"] != card["nonce"]:
            raise RendezvousError(f"another process is rank {rank} of this job too")
        key = token or Token(world["key"].encode())
        engine = _connect(rank, cards, key, bytes.fromhex(world["job"]), transport, local, listeners, deadline)
        _leave(store, rank, size, deadline, serves)
        return World(engine, tuple(card["host_name"] for card in cards))
    finally:
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.close()


def _card(rank: int, size: int, transport: str, unix_name: str, addresses: list[str]) -> dict[str, Any]:
    from commops import __version__

    values = {name: value for name, _, _, value, _ in native.tunables()}
    return {
        "rank": rank,
        "size": size,
        "transport": transport,
        "version": __version__,
        "host": host_key(),
        "host_name": _host_name(),
        "process": os.getpid(),
        "unix": unix_name,
        "addresses": " ".join(addresses),
        "tunables": {name: values[name] for name in _COMMON_TUNABLES},
        "nonce": secrets.token_hex(8),
    }


def _publish(store: Store, rank: int, card: dict[str, Any], deadline: float) -> None:
    value = json.dumps(card).encode()
    stored = store.compare_and_set(f"rank/{rank}", None, value, timeout=_left(deadline))
    if stored != value:
        other = json.loads(stored or b"{}")
        raise RendezvousError(
            f"there already is a rank {rank}: process {other.get('process')} on {other.get('host_name')}. Give every"
            " process a rank of its own; if an earlier job left its keys behind, use a fresh folder, prefix or port"
        )


def _gather(store: Store, rank: int, size: int, token: Token | None, deadline: float) -> dict[str, Any]:
    """As rank 0: read all cards, and publish the world that they make."""
    keys = [f"rank/{r}" for r in range(size)]
    try:
        # A little less than there is, so that the others hear of a failure before their own time is over.
        for start in range(0, size, 256):
            store.wait(keys[start : start + 256], timeout=max(_left(deadline) * 0.9, 0.001))
        cards = [json.loads(store.get(key, timeout=_left(deadline))) for key in keys]
        error = _disagreement(cards, size)
    except RendezvousError as failure:
        missing = [r for r, key in enumerate(keys) if not _has(store, key)]
        if not missing:
            raise
        error = f"ranks {missing} of {size} did not come in time ({failure})" if len(missing) < size else str(failure)
    if error:
        world: dict[str, Any] = {"error": error}
    else:
        world = {"cards": cards, "job": secrets.token_hex(16), "key": "" if token else secrets.token_hex(32)}
    store.set("world", json.dumps(world).encode(), timeout=max(_left(deadline), 1.0))
    if error:
        time.sleep(min(0.2, max(_left(deadline), 0.05)))  # whoever serves the store goes now: let the others read it
    return world


def _has(store: Store, key: str) -> bool:
    try:
        store.get(key, timeout=0)
    except RendezvousError:
        return False
    return True


def _disagreement(cards: list[dict[str, Any]], size: int) -> str | None:
    """Say what does not fit together, if anything."""
    for what, explanation in (
        ("size", "every rank must be given the same size"),
        ("version", "install the same version of commops everywhere"),
        ("transport", "every rank must ask for the same transport"),
        ("tunables", "set the COMMOPS_… variables alike on all ranks"),
    ):
        for card in cards:
            if card[what] != cards[0][what]:
                return (
                    f"ranks 0 and {card['rank']} differ in {what}: {cards[0][what]} and {card[what]}; {explanation}"
                )
    if cards[0]["size"] != size:
        return f"size {size} here and {cards[0]['size']} there; every rank must be given the same size"
    hosts = {card["host"] for card in cards}
    if cards[0]["transport"] == "shm" and len(hosts) > 1:
        names = sorted({card["host_name"] for card in cards})
        return f"transport='shm' needs all ranks on one host, and they are on {len(hosts)}: {', '.join(names)}"
    return None


def _await_world(store: Store, size: int, deadline: float) -> dict[str, Any]:
    try:
        world: dict[str, Any] = json.loads(store.get("world", timeout=_left(deadline)))
    except RendezvousError as error:
        missing = [r for r in range(size) if not _has(store, f"rank/{r}")]
        who = f"ranks {missing} of {size} did not come" if missing else "rank 0 did not answer"
        raise RendezvousError(f"{who} in time ({error})") from error
    if "cards" in world and len(world["cards"]) != size:
        raise RendezvousError(
            f"this rank was given size {size} and rank 0 size {len(world['cards'])}; every rank must be given the same size"
        )
    return world


def _connect(
    rank: int,
    cards: list[dict[str, Any]],
    key: Token,
    job: bytes,
    transport: str,
    local: socket.socket,
    listeners: list[socket.socket],
    deadline: float,
) -> Any:
    """Share memory with the ranks of this host, and make the engine."""
    size = len(cards)
    share = transport != "tcp"
    names = [card["host"] if share else f"{card['host']}#{card['rank']}" for card in cards]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    hosts = [numbers[name] for name in names]
    neighbours = [r for r in range(size) if hosts[r] == hosts[rank]]
    window = native.Window(len(neighbours))
    table = _share(rank, neighbours, cards, window, key, local, deadline)
    remote = len(neighbours) < size
    return native.Engine(
        rank,
        size,
        hosts,
        window,
        table,
        share=share,
        listeners=[listener.detach() for listener in listeners] if remote else [],
        addresses=[card["addresses"] for card in cards] if remote else [],
        job=job,
        token=key,
    )


def _doorbell() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def _share(
    rank: int,
    neighbours: list[int],
    cards: list[dict[str, Any]],
    window: Any,
    key: Token,
    local: socket.socket,
    deadline: float,
) -> list[tuple[int, int, int]]:
    """Return (window, doorbell, end of process) of every rank of this host, as the engine takes them."""
    bell = _doorbell()
    if len(neighbours) == 1:
        return [(-1, bell, -1)]
    own = (window.fd, bell, os.pidfd_open(os.getpid()))
    order = neighbours.index(rank)
    if order == 0:
        table = handover.collect(local, own, order, len(neighbours), key, deadline)
    else:
        table = handover.fetch(cards[neighbours[0]]["unix"], own, order, len(neighbours), key, deadline)
        for copy in table[order]:
            os.close(copy)
    os.close(own[2])
    table[order] = (-1, bell, -1)
    return table


def _leave(store: Store, rank: int, size: int, deadline: float, serves: bool) -> None:
    """Be done with the store; as its server, or the one that tidies up, when everybody is."""
    if rank == 0:
        store.wait(["all-joined"], timeout=_left(deadline)) if size > 1 else None
        for key in [*(f"rank/{r}" for r in range(size)), "world", "joined", "all-joined"]:
            store.delete(key, timeout=_left(deadline))
    elif store.add("joined", 1, timeout=_left(deadline)) == size - 1:
        store.set("all-joined", b"1", timeout=_left(deadline))


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
