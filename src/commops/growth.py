"""Both sides of a group's growth: its ranks let newcomers in, and a newcomer waits for that."""

from __future__ import annotations

import contextlib
import json
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from commops.arguments import ANY
from commops.errors import RendezvousError
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.waiting import Admission, Door, Newcomer

if TYPE_CHECKING:
    from commops.comm import Comm
    from commops.rendezvous.bootstrap import World
    from commops.rendezvous.entrance import Entrance

__all__ = ["grow", "join"]

_TRIES = 5  # meetings in which a newcomer takes part in vain


def grow(comm: Comm) -> Comm:
    """Do what `commops.recovery.Recovery.grow` promises."""
    entrance: Entrance | None = comm._entrance
    if entrance is None:
        raise RendezvousError(
            "grow: there is no place where newcomers could ask to join. It is called on the communicator that"
            " commops.init has returned, or on what shrink and grow have made of it, and init needs a"
            " rendezvous, from a launcher or in COMMOPS_RENDEZVOUS"
        )
    if not entrance.lasts:
        raise RendezvousError(
            f"grow: rank 0 has served the store at {entrance.where} and closed it when all had joined, so"
            " nobody can ask there: use commops run, or meet in a folder (file:), in Redis (redis:), or at a"
            " store that something else serves (give init the Store)"
        )
    deadline = Deadline(comm.timeout)
    order: dict[str, Any] = {}
    nonces: list[str] = []
    if comm.rank == 0:
        try:
            door = Door(entrance.store(comm.timeout), entrance.token)
            if nonces := door.muster(comm.size):
                place = f"generation-{comm.generation + 1}/{os.urandom(8).hex()}"
                order = {"size": comm.size + len(nonces), "place": place}
        except Exception as error:
            order = {"error": str(error) or type(error).__name__}
    order = _broadcast(comm, order)
    if not order:
        return comm
    if "error" in order:
        raise RendezvousError(f"grow: {order['error']}")
    generation = comm.generation + 1
    # Of a group that is in no call, nobody would notice who dies: so each rank waits for a message that never
    # comes.
    guard = comm.dup()
    pending = guard.irecv(source=ANY)

    def watch() -> str:
        if pending.done():
            return "a rank that was there before was lost while the group grew"
        if nonces and (lost := door.gone(nonces)):
            names = ", ".join(str(comm.size + one) for one in lost)
            return f"the newcomer that was to be rank {names} has ended"
        return ""

    try:
        if comm.rank == 0:
            door.admit(nonces, comm.size, generation, order["place"])
        world = entrance.meet(
            entrance.store(comm.timeout),
            order["place"],
            comm.rank,
            order["size"],
            deadline,
            generation=generation,
            watch=watch,
        )
    except RendezvousError as error:
        if nonces:
            with contextlib.suppress(RendezvousError):
                door.forget([nonces[one] for one in door.gone(nonces)])
        raise RendezvousError(f"grow: {error}; the ranks that were there before can go on") from error
    finally:
        guard.close()
    return comm._grown(world, generation)


def _broadcast(comm: Comm, order: dict[str, Any]) -> dict[str, Any]:
    """Give all ranks what rank 0 has decided: 8 bytes where that is nothing."""
    text = np.frombuffer(json.dumps(order).encode() if order else b"", np.uint8)
    length = int(comm.broadcast(np.array([len(text)]))[0])
    if not length:
        return {}
    text = comm.broadcast(text.copy() if comm.rank == 0 else np.empty(length, np.uint8))
    decided: dict[str, Any] = json.loads(text.tobytes())
    return decided


def join(entrance: Entrance, timeout: float) -> tuple[World, int]:
    """Wait until a group admits this process; return the world and its generation.

    Under a launcher, which ends who waits in vain, the wait has no limit.
    """
    patience = Deadline(math.inf if "COMMOPS_JOB" in os.environ else timeout)
    store = entrance.store(timeout)
    newcomer = Newcomer(store, entrance.token)
    tries = 0
    while True:
        admission = newcomer.wait(patience)
        tries += 1
        try:
            world = _meet(entrance, admission, timeout)
        except RendezvousError:
            newcomer.over()
            if tries == _TRIES:
                raise
            continue
        except BaseException:
            newcomer.over()
            raise
        newcomer.over()
        if "COMMOPS_JOB" in os.environ:
            newcomer.tell_launcher(os.environ.get("COMMOPS_RESTART_COUNT", ""))
        return world, admission.generation


def _meet(entrance: Entrance, admission: Admission, timeout: float) -> World:
    return entrance.meet(
        entrance.store(timeout),
        admission.place,
        admission.rank,
        admission.size,
        Deadline(timeout),
        generation=admission.generation,
    )
