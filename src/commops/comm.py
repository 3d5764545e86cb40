"""The communicator that people hold."""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from commops._core import native
from commops.arguments import ANY, whole_number
from commops.calls import DUP, EMPTY, SPLIT, gather
from commops.collectives import Collectives
from commops.dtypes import Array, code_of
from commops.errors import CommError, MismatchError
from commops.messages import Messages, Status
from commops.objects import Objects
from commops.recovery import Recovery
from commops.reductions import Reductions

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from commops.rendezvous.bootstrap import World
    from commops.rendezvous.entrance import Entrance

__all__ = ["ANY", "Comm", "Status"]


class Comm(Collectives, Reductions, Objects, Messages, Recovery):
    """A group of ranks, numbered from 0, that call collectives together and send each other messages.

    `commops.init` and `commops.launch` make the first one, `split` and `dup` others. It is a context manager
    that closes itself.

    Collectives of one communicator run in the order in which a rank calls them, and all ranks must call
    the same ones in the same order: otherwise all raise `MismatchError`. Every method below whose name
    has a sibling with a leading ``i`` blocks until this rank's part is done; the sibling takes the same
    arguments and returns a `Work` at once.

    Arguments that are wrong on this rank alone raise TypeError or ValueError before anything is sent, and the
    communicator stays usable. What goes wrong between ranks raises a `CommError`, after which it does not:

    - `MismatchError` on all ranks, if they called different things: another call, dtype, op, root, size;
    - `PeerLostError` on all ranks, if one is gone;
    - `CommTimeoutError`, if `timeout` seconds have passed;
    - `RevokedError`, if the communicator was closed here, or revoked.

    After that the ranks that are left may `agree`, and make a new communicator of themselves by `shrink`, to
    which `grow` adds the processes that wait to join.

    Arrays may have any NumPy bool or numeric dtype, or bfloat16, any shape and any memory layout. An
    `out` must have the right shape and dtype, and may overlap `x`; nothing is cast.

    Attributes
    ----------
    rank, size : int
        This rank's number and how many there are.
    local_rank, local_size : int
        The same among the ranks of this host.
    hosts : tuple of str
        Name of the host of each rank.
    generation : int
        How often the group of ranks has been rebuilt, by `shrink` or `grow`.
    timeout : float
        Seconds within which each call must end. May be set.
    allow_pickle : bool
        Whether calls on Python objects may be made. May be set.
    """

    __slots__ = ("_engine", "_outgrown")

    def __init__(
        self,
        core: Any,
        world_hosts: tuple[str, ...],
        timeout: float,
        generation: int = 0,
        engine: Any = None,
    ) -> None:
        # `engine` is given to the communicator of all ranks only, which owns it.
        super().__init__(core, world_hosts, timeout, generation)
        self._engine = engine
        self._outgrown = False

    @classmethod
    def _of_world(
        cls, world: World, timeout: float, generation: int = 0, entrance: Entrance | None = None
    ) -> Comm:
        comm = cls(world.engine.world(), world.hosts, timeout, generation, engine=world.engine)
        comm._owner, comm._entrance = comm, entrance
        if entrance is not None:
            entrance.use()
        comm.allow_pickle = os.environ.get("COMMOPS_ALLOW_PICKLE", "1") != "0"
        _open_worlds.append(comm)
        return comm

    def _grown(self, world: World, generation: int) -> Comm:
        self._outgrown = True
        comm = Comm._of_world(world, self.timeout, generation, self._entrance)
        comm.allow_pickle = self.allow_pickle
        return comm

    def __repr__(self) -> str:
        return f"<commops.Comm rank {self.rank} of {self.size}{', closed' if self._closed else ''}>"

    def close(self) -> None:
        """Leave the group. Need not be called by all ranks, and may be called again.

        The communicator that `init` or `grow` has returned takes with it all that `split`, `dup` and `shrink`
        have made of it, but not what `grow` has. So does one that `shrink` has made, once it has grown.

        What was sent still goes out (it is waited for, a few seconds at most). Calls of this rank that go on,
        and later ones, raise `RevokedError`; ranks that still wait for this one raise `PeerLostError`.

        Raises
        ------
        MismatchError
            If others are known by now to have made another call where this rank has made one that needed
            nothing of them, a `broadcast` of its own for example, and so has ended well. It is closed.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._core.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Let go of what belongs to the communicator, which has been closed."""
        if self._engine is not None:
            _open_worlds.remove(self)
            if strangers := self._engine.refused():
                from commops.rendezvous.strangers import tell_of_strangers

                tell_of_strangers(f"rank {self.rank}", *strangers)
            if folder := os.environ.get("COMMOPS_TRACE"):
                from commops import flight

                flight.save(self._engine, folder)
            try:
                self._engine.close()
            finally:
                if not _open_worlds:
                    from commops.stacks import withdraw

                    withdraw()
                if self._entrance is not None:
                    self._entrance.leave()
        elif self._outgrown:
            self._owner.close()
        self._owner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except MismatchError:
            if error is None:
                raise

    def __reduce__(self) -> Any:
        raise TypeError("a communicator belongs to its process and cannot be pickled")

    # ------------------------------------------------------------------ groups

    def split(self, color: int | None, key: int = 0) -> Comm | None:
        """Make new communicators, one of all ranks that give the same color.

        All ranks must call this together: it is one allgather of 32 bytes a rank.

        Parameters
        ----------
        color : int or None
            From 0 to 2**62 - 1; None: this rank will be in none.
        key : int
            Ranks of a color are numbered by rising key, and by their rank here where keys are equal.

        Returns
        -------
        Comm or None
            Of the same `timeout` as this one.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        MemoryError
            On all ranks, if any of them cannot reserve the shared memory of the new communicator.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        return self._split(color, key, SPLIT)

    def _split(self, color: int | None, key: int, meaning: int) -> Comm | None:
        chosen = -1 if color is None else whole_number(color, "color", "a whole number or None")
        if color is not None and not 0 <= chosen < 2**62:
            raise ValueError(f"color must be from 0 to 2**62 - 1, or None, not {chosen}")
        order = whole_number(key, "key")
        if not -(2**62) < order < 2**62:
            raise ValueError(f"key must be between -2**62 and 2**62, not {order}")
        members = self._exchanged(np.frombuffer(self._core.offer(chosen, order), np.uint8), meaning)
        core = self._core.build(members)
        if core is None:
            return None
        child = Comm(core, self._world_hosts, self.timeout, self.generation)
        child.allow_pickle = self.allow_pickle
        return child

    def dup(self) -> Comm:
        """Make a communicator of the same ranks whose calls and messages do not mix with this one's.

        It is a `split` of one color, with the same errors.
        """
        child = self._split(0, self.rank, DUP)
        assert child is not None
        return child

    def _exchanged(self, own: Array, meaning: int) -> Array:
        """Make an allgather that is known for what it is part of, and taken for no other call."""
        (kind, _, *rest), finish = gather(self._at, "allgather", own, 0, None, None)
        joined: Array = self._run(((kind, meaning, *rest), finish))
        return joined

    # ------------------------------------------------------------------ shared arrays

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> Array:
        """Make an array in memory that every rank of this host can address: collectives need not copy it.

        It is an ordinary array otherwise, with arbitrary contents, and lives as long as any reference to it,
        also after `close`. All ranks must call this together; shape and dtype may differ.

        Parameters
        ----------
        shape : int or sequence of int
        dtype : data-type
            A NumPy bool or numeric dtype, or bfloat16.

        Returns
        -------
        ndarray
            In C order.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        MemoryError
            On all ranks, if any of them has no memory left to reserve.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        dims = _shape_of(shape)
        kind = _dtype_of(dtype)
        nbytes = math.prod(dims) * kind.itemsize
        block: Any = None
        failure: MemoryError | None = None
        try:
            if nbytes > sys.maxsize:
                raise MemoryError(f"{nbytes} bytes are more than there are addresses")
            if nbytes:
                block = self._core.window.allocate(nbytes)
        except MemoryError as error:
            failure = error
        worked = self._exchanged(np.array([failure is None]), EMPTY)
        if not worked.all():
            ranks = np.flatnonzero(~worked).tolist()
            raise MemoryError(f"ranks {ranks} cannot reserve shared memory ({failure or 'see there'})")
        if block is None:
            return np.empty(dims, kind)
        array: Array = block.array(dims, kind)
        return array

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> Array:
        """Make an array as `empty` does, with the same errors, filled with zeros."""
        array = self.empty(shape, dtype)
        array[...] = 0
        return array


def _shape_of(shape: object) -> tuple[int, ...]:
    sizes: Iterable[Any] = shape if isinstance(shape, Iterable) else (shape,)
    try:
        dims = tuple(operator.index(n) for n in sizes)
    except TypeError:
        raise TypeError(f"shape must be a whole number or a sequence of them, not {shape!r}") from None
    if any(n < 0 for n in dims):
        raise ValueError(f"shape must not have negative dimensions: {dims}")
    if any(n > sys.maxsize for n in dims) and 0 in dims:  # without a 0, it is memory that is missing
        raise ValueError(f"shape must not have dimensions above {sys.maxsize}: {dims}")
    if len(dims) > native.MAX_DIMS:
        raise ValueError(f"shape must have at most {native.MAX_DIMS} dimensions, not {len(dims)}")
    return dims


def _dtype_of(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"dtype must be a NumPy dtype, not {dtype!r}: {error}") from error
    try:
        code_of(kind)
    except TypeError:
        raise TypeError(
            f"dtype must be a bool or numeric dtype in this machine's byte order, or bfloat16, not {kind}"
        ) from None
    return kind


_open_worlds: list[Comm] = []


def close_all() -> None:
    """Close what the program has left open. For the end of the interpreter."""
    for comm in list(_open_worlds):
        rank = comm.rank
        try:
            comm.close()
        except CommError as error:
            print(f"commops: rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
