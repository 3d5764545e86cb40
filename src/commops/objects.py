"""Calls that take any Python object."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from functools import reduce as fold
from typing import Any, TypeAlias

import numpy as np

from commops._core import messages as core
from commops.arguments import ANY, rank_of, tag_of
from commops.calls import (
    OBJECTS_ALLREDUCE,
    OBJECTS_REDUCE,
    Call,
    alltoall_bytes,
    broadcast,
    gather_bytes,
    of_objects,
    scatter,
)
from commops.dtypes import Array
from commops.messages import OBJECT, Messages, status_of
from commops.pickling import pack, pack_parts, unpack
from commops.work import Work

__all__ = ["Objects"]

ObjectOp: TypeAlias = str | Callable[[Any, Any], Any]

_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": operator.add,
    "prod": operator.mul,
    "min": min,
    "max": max,
    "band": operator.and_,
    "bor": operator.or_,
    "bxor": operator.xor,
    "land": lambda a, b: bool(a) and bool(b),
    "lor": lambda a, b: bool(a) or bool(b),
    "lxor": lambda a, b: bool(a) != bool(b),
}


class Objects(Messages):
    """The calls of a `Comm` whose arguments are Python objects.

    Objects are pickled at once, by protocol 5, with large buffers such as those of arrays beside the
    pickle instead of in it; their bytes then go the way of the call of the same name for arrays, in as
    many steps. Received arrays are writable and nobody else's.

    Each raises TypeError if an object cannot be pickled here (nothing has been sent), or if `allow_pickle`
    is False, and whatever unpickling raises where the object arrives. The communicator stays usable then.
    """

    __slots__ = ()

    def send_object(self, obj: object, dest: int, tag: int = 0) -> None:
        """Send any picklable object to one rank.

        Parameters
        ----------
        obj : object
        dest, tag : int
            As for `send`; tags are shared with the messages that carry arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or `obj` cannot be pickled. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        self._check_pickle()
        packed = pack_parts(obj)
        if isinstance(packed, list):
            dest, tag = rank_of(dest, self.size, "dest"), tag_of(tag, receives=False)
            core.send_parts(self._core, packed, OBJECT, dest, tag, self._timeout)
        elif not core.plain_send(self._core, packed, dest, tag, self._timeout, OBJECT):
            self._send(packed, OBJECT, dest, tag, waits=True).wait(-1.0)

    def isend_object(self, obj: object, dest: int, tag: int = 0) -> Work[None]:
        """Start a `send_object`. The object is pickled at once."""
        self._check_pickle()
        return Work((self._send(pack(obj), OBJECT, dest, tag),), lambda: None)

    def recv_object(self, source: int = ANY, tag: int = ANY, *, status: bool = False) -> Any:
        """Receive an object.

        Parameters
        ----------
        source, tag : int
            Whose message, or `ANY`.
        status : bool
            Return the `Status` too.

        Returns
        -------
        object, or (object, Status)

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or the message is an array. It then stays to be received.
        CommError
            If something goes wrong between ranks: see `Comm`.
        Exception
            Whatever unpickling the object raises. The message has been received.
        """
        self._check_pickle()
        packed = None if status else core.recv_bytes(self._core, OBJECT, source, tag, self._timeout)
        return self.irecv_object(source, tag, status=status).wait() if packed is None else unpack(packed)

    def irecv_object(self, source: int = ANY, tag: int = ANY, *, status: bool = False) -> Work[Any]:
        """Start a `recv_object`."""
        self._check_pickle()

        def allocate(
            dtype: int, shape: tuple[int, ...], counts: None, carries: int, source: int, tag: int
        ) -> Array:
            if carries != OBJECT:
                raise TypeError(f"the message from rank {source} with tag {tag} is an array: use recv")
            return np.empty(shape, np.uint8)

        def finish(call: Any) -> Any:
            obj = unpack(call.result)
            return (obj, status_of(call.message())) if status else obj

        call = self._recv(allocate, source, tag)
        return Work((call,), lambda: finish(call))

    def broadcast_object(self, obj: object = None, root: int = 0) -> Any:
        """Give every rank root's object.

        Parameters
        ----------
        obj : object
            At root; elsewhere ignored, None by custom.
        root : int

        Returns
        -------
        object
            At root `obj` itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or `obj` cannot be pickled. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        return self._run(self._broadcast_object(obj, root))

    def ibroadcast_object(self, obj: object = None, root: int = 0) -> Work[Any]:
        """Start a `broadcast_object`."""
        return self._start(self._broadcast_object(obj, root))

    def _broadcast_object(self, obj: object, root: int) -> Call:
        self._check_pickle()
        sends = self.rank == rank_of(root, self.size)
        arguments, received = of_objects(broadcast(self._at, pack(obj) if sends else None, root))
        return arguments, lambda got: obj if sends else unpack(received(got))

    def scatter_object(self, objs: Sequence[object] | None = None, root: int = 0) -> Any:
        """Give rank r the object ``objs[r]`` of root.

        Parameters
        ----------
        objs : sequence of object
            One for each rank, at root; elsewhere ignored, None by custom.
        root : int

        Returns
        -------
        object
            At root ``objs[root]`` itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or an object cannot be pickled. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        return self.iscatter_object(objs, root).wait()

    def iscatter_object(self, objs: Sequence[object] | None = None, root: int = 0) -> Work[Any]:
        """Start a `scatter_object`."""
        self._check_pickle()
        if self.rank != rank_of(root, self.size):
            arguments, received = of_objects(scatter(self._at, None, root, None, None))
            return self._start((arguments, lambda got: unpack(received(got))))
        mine, data = self._one_for_each(objs)
        sizes = [each.size for each in data]
        arguments, _ = of_objects(scatter(self._at, np.concatenate(data), root, None, sizes))
        return self._start((arguments, lambda _: mine))

    def gather_object(self, obj: object, root: int = 0) -> list[Any] | None:
        """Return the list of all ranks' objects at root, None elsewhere.

        Parameters
        ----------
        obj : object
        root : int

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or `obj` cannot be pickled. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        objs: list[Any] | None = self._run(self._gather_object("gather", obj, root))
        return objs

    def igather_object(self, obj: object, root: int = 0) -> Work[list[Any] | None]:
        """Start a `gather_object`."""
        return self._start(self._gather_object("gather", obj, root))

    def _gather_object(self, kind: str, obj: object, root: int) -> Call:
        self._check_pickle()
        root = rank_of(root, self.size)
        packed = pack(obj)
        return gather_bytes(kind, packed, root, partial(_unpack_all, own=(self.rank, packed)))

    def allgather_object(self, obj: object) -> list[Any]:
        """Return the list of all ranks' objects, in rank order. Errors are those of `gather_object`."""
        objs: list[Any] = self._run(self._gather_object("allgather", obj, 0))
        return objs

    def iallgather_object(self, obj: object) -> Work[list[Any]]:
        """Start an `allgather_object`."""
        return self._start(self._gather_object("allgather", obj, 0))

    def alltoall_object(self, objs: Sequence[object]) -> list[Any]:
        """Send ``objs[j]`` to rank j; return the list of what the ranks have sent to this one.

        Parameters
        ----------
        objs : sequence of object
            One for each rank.

        Raises
        ------
        TypeError, ValueError
            If `objs` is no such sequence, or an object cannot be pickled. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        received: list[Any] = self.ialltoall_object(objs).wait()
        return received

    def ialltoall_object(self, objs: Sequence[object]) -> Work[list[Any]]:
        """Start an `alltoall_object`."""
        self._check_pickle()
        _, data = self._one_for_each(objs)
        return self._start(alltoall_bytes(data, _unpack_all))

    def reduce_object(self, obj: object, op: ObjectOp = "sum", root: int = 0) -> Any:
        """Reduce the ranks' objects in rank order, at root; None elsewhere.

        The objects are gathered, and folded where the result is wanted.

        Parameters
        ----------
        obj : object
        op : str or callable
            ``sum prod min max band bor bxor land lor lxor`` as Python's operators, or an associative
            function of two objects.
        root : int

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or `obj` cannot be pickled. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        Exception
            Whatever `op` raises, where it is applied. The communicator stays usable.
        """
        return self.ireduce_object(obj, op, root).wait()

    def ireduce_object(self, obj: object, op: ObjectOp = "sum", root: int = 0) -> Work[Any]:
        """Start a `reduce_object`."""
        self._check_pickle()
        root = rank_of(root, self.size)
        return self._start(gather_bytes("gather", pack(obj), root, _folder(op), OBJECTS_REDUCE))

    def allreduce_object(self, obj: object, op: ObjectOp = "sum") -> Any:
        """Reduce the ranks' objects in rank order, at every rank.

        Parameters and errors are those of `reduce_object`.
        """
        return self.iallreduce_object(obj, op).wait()

    def iallreduce_object(self, obj: object, op: ObjectOp = "sum") -> Work[Any]:
        """Start an `allreduce_object`."""
        self._check_pickle()
        return self._start(gather_bytes("allgather", pack(obj), 0, _folder(op), OBJECTS_ALLREDUCE))

    def _one_for_each(self, objs: Sequence[object] | None) -> tuple[object, list[Array]]:
        """Return this rank's own of the objects, and all of them as bytes."""
        if not isinstance(objs, Sequence | np.ndarray) or isinstance(objs, str | bytes):
            raise TypeError(
                f"objs must be a sequence with an object for each rank, not {type(objs).__name__}"
            )
        if len(objs) != self.size:
            raise ValueError(f"objs must have {self.size} objects, one for each rank, not {len(objs)}")
        return objs[self.rank], [pack(obj, f"objs[{rank}]") for rank, obj in enumerate(objs)]


def _unpack_all(
    joined: Array | None, sizes: list[int], own: tuple[int, Array] | None = None
) -> list[Any] | None:
    """Unpack what has been gathered. `own`: this rank, and what it has packed, which nobody else looks at."""
    if joined is None:
        return None
    objs = []
    end = 0
    for rank, size in enumerate(sizes):
        end += size
        if own is not None and rank == own[0]:
            objs.append(unpack(own[1]))
            continue
        # In memory of its own, so that one kept object does not keep the bytes of all, unless it is half of
        # them.
        block = joined[end - size : end]
        objs.append(unpack(block if 2 * size >= joined.size else block.copy()))
    return objs


def _folder(op: ObjectOp) -> Callable[[Array | None, list[int]], Any]:
    function = _OPS.get(op) if isinstance(op, str) else op
    if function is None:
        names = ", ".join(_OPS)
        raise (ValueError if isinstance(op, str) else TypeError)(
            f"op must be one of {names}, or a function of two objects, not {op!r}"
        )
    if not callable(function):
        raise TypeError(f"op must be a name or a function of two objects, not {type(op).__name__}")

    def finish(joined: Array | None, sizes: list[int]) -> Any:
        objs = _unpack_all(joined, sizes)
        return None if objs is None else fold(function, objs)

    return finish
