"""Who is in a communicator, and how its calls are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from commops._core import collectives as core
from commops.calls import Call, Place
from commops.work import Work

__all__ = ["Group"]


class Group:
    """The ranks of a communicator, and the core's side of it: what all the parts of `Comm` stand on."""

    __slots__ = (
        "__weakref__",
        "_allow_pickle",
        "_at",
        "_closed",
        "_core",
        "_entrance",
        "_generation",
        "_half",
        "_hosts",
        "_local",
        "_owner",
        "_timeout",
        "_world_hosts",
    )

    def __init__(self, core: Any, world_hosts: tuple[str, ...], timeout: float, generation: int = 0) -> None:
        self._core = core
        self._closed = False
        self._generation = generation
        rank, size, local_rank, local_size, _, world = core.describe()
        self._at = Place(rank, size)
        self._local = Place(local_rank, local_size)
        self._world_hosts = world_hosts
        self._hosts = tuple(world_hosts[r] for r in world)
        self.timeout = timeout
        # Of a communicator of a whole world, or what shrink has made of it: where newcomers may ask to join,
        # and the communicator that owns the engine. No other may grow.
        self._entrance: Any = None
        self._owner: Any = None
        self._allow_pickle = True
        self._half: tuple[Any, Any] | None = None  # how far a shrink had come; see recovery.py

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""
        return self._at.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._at.size

    @property
    def local_rank(self) -> int:
        """Number of this rank among those of its host, from 0."""
        return self._local.rank

    @property
    def local_size(self) -> int:
        """How many ranks this host has."""
        return self._local.size

    @property
    def hosts(self) -> tuple[str, ...]:
        """Name of the host of each rank."""
        return self._hosts

    @property
    def generation(self) -> int:
        """How often the group of ranks has been rebuilt, by `shrink` or `grow`."""
        return self._generation

    @property
    def timeout(self) -> float:
        """Seconds within which each call must end, from when it is made; may be set, for the calls after.

        Raises
        ------
        TypeError, ValueError
            If it is set to anything but a number above 0.
        """
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float | np.integer | np.floating):
            raise TypeError(f"timeout must be a number of seconds, not {seconds!r}")
        if not seconds > 0:  # also for NaN
            raise ValueError(f"timeout must be a positive number of seconds, not {seconds!r}")
        self._timeout = float(seconds)

    @property
    def allow_pickle(self) -> bool:
        """Whether calls on Python objects may be made here; may be set, for the calls after.

        Where it is False, nothing that comes from another rank is ever unpickled in this communicator: each
        call whose name ends in ``_object`` raises TypeError. Communicators made from this one have it from
        here. The first has it from ``COMMOPS_ALLOW_PICKLE``, True if that is not set.

        Raises
        ------
        TypeError
            If it is set to anything but a bool.
        """
        return self._allow_pickle

    @allow_pickle.setter
    def allow_pickle(self, allowed: bool) -> None:
        if not isinstance(allowed, bool | np.bool_):
            raise TypeError(f"allow_pickle must be True or False, not {allowed!r}")
        self._allow_pickle = bool(allowed)

    def _check_pickle(self) -> None:
        if not self._allow_pickle:
            raise TypeError(
                "allow_pickle is False, so this rank pickles no objects and unpickles none: send arrays, or"
                " set comm.allow_pickle = True on all ranks, if you trust them"
            )

    def _run(self, call: Call) -> Any:
        """Make a call and wait for its end."""
        asked, finish = call
        return finish(core.run(self._core, asked, self._timeout))

    def _start(self, call: Call) -> Work[Any]:
        """Make a call that goes on by itself."""
        asked, finish = call
        started = core.start(self._core, asked, self._timeout)
        return Work((started,), lambda: finish(started.result))
