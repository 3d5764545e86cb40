"""The communicator that people hold."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce as fold
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from commops import calls
from commops._core import native
from commops.calls import Counts, Op, Place
from commops.dtypes import Array, code_of, dtype_of
from commops.errors import CommError
from commops.objects import pack, unpack
from commops.work import Work

if TYPE_CHECKING:
    from commops.rendezvous.bootstrap import World

__all__ = ["ANY", "Comm", "Status"]

ANY: int = native.ANY
"""Any source, or any tag, of a message."""

ObjectOp: TypeAlias = str | Callable[[Any, Any], Any]

_OBJECT_OPS: dict[str, Callable[[Any, Any], Any]] = {
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
_MAX_TAG = 2**62
_ARRAY, _OBJECT = 0, 1  # what a message carries


@dataclass(frozen=True, slots=True)
class Status:
    """What a message is: who sent it, with which tag, and what it carries.

    Attributes
    ----------
    source, tag : int
    nbytes : int
        Size of the data in bytes.
    dtype : numpy.dtype or None
        None for a Python object.
    shape : tuple of int
    """

    source: int
    tag: int
    nbytes: int
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]

    @classmethod
    def _of(cls, message: tuple[int, int, int, int, int, tuple[int, ...]]) -> Status:
        source, tag, nbytes, dtype, extra, shape = message
        return cls(source, tag, nbytes, None if extra == _OBJECT else dtype_of(dtype), shape)


class Comm:
    """A group of ranks, numbered from 0, that call collectives together and send each other messages.

    `commops.init` and `commops.launch` make the first one, `split` and `dup` others. It is a context manager
    that closes itself.

    Collectives of one communicator run in the order in which a rank calls them, and all ranks must call the
    same ones in the same order: otherwise all raise `MismatchError`. Every method below whose name has a
    sibling with a leading ``i`` blocks until this rank's part is done; the sibling returns a `Work` at once.

    Arguments that are wrong on this rank alone raise TypeError or ValueError before anything is sent, and the
    communicator stays usable. What goes wrong between ranks raises a `CommError`, after which it does not.

    Arrays may have any NumPy bool or numeric dtype, or bfloat16, any shape and any memory layout.

    Attributes
    ----------
    rank, size : int
        This rank's number and how many there are.
    local_rank, local_size : int
        The same among the ranks of this host.
    hosts : tuple of str
        Name of the host of each rank.
    generation : int
        How often the group of ranks has been rebuilt after a failure.
    timeout : float
        Seconds within which each call must end. May be set.
    """

    __slots__ = (
        "__weakref__",
        "_at",
        "_closed",
        "_core",
        "_engine",
        "_hosts",
        "_local_rank",
        "_local_size",
        "_timeout",
        "_world_hosts",
    )

    def __init__(self, core: Any, hosts: tuple[str, ...], timeout: float, engine: Any) -> None:
        # `engine` is given to the communicator of all ranks only, which owns it.
        self._core = core
        self._engine = engine
        rank, size, self._local_rank, self._local_size, _, world = core.describe()
        self._at = Place(rank, size)
        self._hosts = tuple(hosts[r] for r in world) if engine is None else hosts
        self._world_hosts = hosts
        self.timeout = timeout
        self._closed = False

    @classmethod
    def _of_world(cls, world: World, timeout: float) -> Comm:
        comm = cls(world.engine.world(), world.hosts, timeout, world.engine)
        _open_worlds.append(comm)
        return comm

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
        return int(self._local_rank)

    @property
    def local_size(self) -> int:
        """How many ranks this host has."""
        return int(self._local_size)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Name of the host of each rank."""
        return self._hosts

    @property
    def generation(self) -> int:
        """How often the group of ranks has been rebuilt after a failure."""
        return 0

    @property
    def timeout(self) -> float:
        """Seconds within which each call must end, from when it is made."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float | np.integer | np.floating):
            raise TypeError(f"timeout must be a number of seconds, not {seconds!r}")
        if not seconds > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {seconds!r}")
        self._timeout = float(seconds)

    def __repr__(self) -> str:
        return f"<commops.Comm rank {self.rank} of {self.size}{', closed' if self._closed else ''}>"

    # ------------------------------------------------------------------ life

    def close(self) -> None:
        """Leave the group. Ranks that still wait for this one raise `PeerLostError`. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._core.close()
        if self._engine is not None:
            _open_worlds.remove(self)
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a communicator belongs to its process and cannot be pickled")

    def split(self, color: int | None, key: int = 0) -> Comm | None:
        """Make new communicators, one of all ranks that give the same color.

        Parameters
        ----------
        color : int or None
            0 or more; None: this rank will be in none.
        key : int
            Ranks of a color are numbered by rising key, and by their rank here where keys are equal.

        Returns
        -------
        Comm or None

        Raises
        ------
        MemoryError
            On all ranks, if any of them cannot reserve the shared memory of the new communicator.
        """
        if color is not None and (isinstance(color, bool) or not isinstance(color, int | np.integer)):
            raise TypeError(f"color must be a whole number or None, not {color!r}")
        if color is not None and not 0 <= color < 2**62:
            raise ValueError(f"color must be 0 or more, or None, not {color}")
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise TypeError(f"key must be a whole number, not {key!r}")
        if not -(2**62) < key < 2**62:
            raise ValueError(f"key must be between -2**62 and 2**62, not {key}")
        own = self._core.offer(-1 if color is None else int(color), int(key))
        members = self.allgather(np.frombuffer(own, np.uint8))
        core = self._core.build(members)
        return None if core is None else Comm(core, self._world_hosts, self.timeout, None)

    def dup(self) -> Comm:
        """Make a communicator of the same ranks whose calls and messages do not mix with this one's."""
        child = self.split(0, self.rank)
        assert child is not None
        return child

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> Array:
        """Make an array in memory that every rank of this host can address: collectives need not copy it.

        It is an ordinary array otherwise, with arbitrary contents, and lives as long as any reference to it.
        All ranks must call this together; shape and dtype may differ.

        Raises
        ------
        MemoryError
            On all ranks, if any of them has no memory left to reserve.
        """
        kind = np.dtype(dtype)
        code_of(kind, "the array")
        dims = tuple(int(n) for n in (shape if isinstance(shape, Sequence) else (operator.index(shape),)))
        if any(n < 0 for n in dims):
            raise ValueError(f"shape must not have negative dimensions: {dims}")
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
        worked = self.allgather(np.array([failure is None]))
        if not worked.all():
            ranks = np.flatnonzero(~worked).tolist()
            raise MemoryError(f"ranks {ranks} cannot reserve shared memory ({failure or 'see there'})")
        if block is None:
            return np.empty(dims, kind)
        array: Array = block.array(dims, kind)
        return array

    def zeros(self, shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> Array:
        """Make an array as `empty` does, filled with zeros."""
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    # ------------------------------------------------------------------ how calls are made

    def _run(self, call: calls.Call) -> Any:
        return call.finish(self._core.run(*call.arguments, self.timeout))

    def _start(self, call: calls.Call) -> Work[Any]:
        started = self._core.start(*call.arguments, self.timeout)
        finish = call.finish
        return Work((started,), lambda: finish(started.result))

    # ------------------------------------------------------------------ collectives on arrays

    def barrier(self) -> None:
        """Wait until every rank has called this.

        Within a host every rank sets a flag and reads the others'; between hosts, dissemination: ⌈log₂ size⌉
        rounds.
        """
        self._run(calls.barrier())

    def ibarrier(self) -> Work[None]:
        """Start a `barrier`."""
        return self._start(calls.barrier())

    def broadcast(self, x: Array | None, root: int = 0) -> Array:
        """Give every rank root's array.

        A rank sends or receives the array once within a host; between hosts a binomial tree forwards it while
        it is still arriving, in ⌈log₂ size⌉ steps.

        Parameters
        ----------
        x : ndarray
            At root the array to send; elsewhere the array that receives it, of the same dtype and number of
            elements, or None for a new one.
        root : int

        Returns
        -------
        ndarray
            x, or the new array.
        """
        array: Array = self._run(calls.broadcast(self._at, x, root))
        return array

    def ibroadcast(self, x: Array | None, root: int = 0) -> Work[Array]:
        """Start a `broadcast`."""
        return self._start(calls.broadcast(self._at, x, root))

    def allreduce(self, x: Array, op: Op = "sum", out: Array | None = None) -> Array:
        """Reduce the ranks' arrays elementwise, and give every rank the result: the same bits on all.

        Between hosts, recursive doubling for small arrays (⌈log₂ size⌉ steps of the whole array) and a ring
        for large ones (2·(size − 1) steps; each rank sends and receives 2·(size − 1)/size of the array).
        Several ranks on a host first reduce among themselves. Half-precision types are accumulated in float32
        and rounded once.

        Parameters
        ----------
        x : ndarray
            The same shape and dtype on every rank.
        op : str or callable
            ``sum prod min max mean band bor bxor land lor lxor``, or an associative function of two arrays,
            which is applied in rank order to whole arrays.
        out : ndarray, optional
            Receives the result; may be x.

        Returns
        -------
        ndarray
            `out`, or a new array of x's shape and dtype.
        """
        array: Array = self._run(calls.reduction(self._at, "allreduce", x, op, out))
        return array

    def iallreduce(self, x: Array, op: Op = "sum", out: Array | None = None) -> Work[Array]:
        """Start an `allreduce`."""
        return self._start(calls.reduction(self._at, "allreduce", x, op, out))

    def reduce(self, x: Array, op: Op = "sum", root: int = 0, out: Array | None = None) -> Array | None:
        """Reduce the ranks' arrays elementwise; the result is at root, and None elsewhere.

        Parameters are those of `allreduce`; `out` counts at root only. Between hosts a binomial tree for
        small arrays, for large ones a ring reduce-scatter whose blocks root collects.
        """
        array: Array | None = self._run(calls.reduction(self._at, "reduce", x, op, out, root))
        return array

    def ireduce(
        self, x: Array, op: Op = "sum", root: int = 0, out: Array | None = None
    ) -> Work[Array | None]:
        """Start a `reduce`."""
        return self._start(calls.reduction(self._at, "reduce", x, op, out, root))

    def scan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Array:
        """Reduce the arrays of ranks 0 to this one, inclusive. Parameters are those of `allreduce`."""
        array: Array = self._run(calls.reduction(self._at, "scan", x, op, out))
        return array

    def iscan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Work[Array]:
        """Start a `scan`."""
        return self._start(calls.reduction(self._at, "scan", x, op, out))

    def exscan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Array:
        """Reduce the arrays of ranks 0 to the one before this.

        Rank 0 gets what a reduction of nothing is: 0 for sum, 1 for prod, the greatest value for min, NaN for
        mean (and, for a function as `op`, `out` as it was). Parameters are those of `allreduce`.
        """
        array: Array = self._run(calls.reduction(self._at, "exscan", x, op, out))
        return array

    def iexscan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Work[Array]:
        """Start an `exscan`."""
        return self._start(calls.reduction(self._at, "exscan", x, op, out))

    def reduce_scatter(
        self, x: Array, op: Op = "sum", out: Array | None = None, counts: Counts | None = None
    ) -> Array:
        """Reduce the ranks' arrays elementwise, and give each rank its block of the result along axis 0.

        Between hosts a ring: size − 1 steps, in which each rank sends and receives (size − 1)/size of the
        array.

        Parameters
        ----------
        x : ndarray, shape (rows, …)
            The same shape and dtype on every rank.
        op : str or callable
            As for `allreduce`.
        out : ndarray, optional
            Shape (rows of this rank's block, …).
        counts : sequence of int, optional
            Rows of each rank's block, the same on every rank. None: equal blocks.
        """
        array: Array = self._run(calls.reduce_scatter(self._at, x, op, out, counts))
        return array

    def ireduce_scatter(
        self, x: Array, op: Op = "sum", out: Array | None = None, counts: Counts | None = None
    ) -> Work[Array]:
        """Start a `reduce_scatter`."""
        return self._start(calls.reduce_scatter(self._at, x, op, out, counts))

    def scatter(
        self, x: Array | None, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Array:
        """Cut root's array in blocks along axis 0, and give rank r block r.

        Between hosts a binomial tree: ⌈log₂ size⌉ steps; root sends (size − 1)/size of the array.

        Parameters
        ----------
        x : ndarray, shape (rows, …)
            At root; elsewhere ignored, None by custom.
        root : int
        out : ndarray, optional
            Receives the block.
        counts : sequence of int, optional
            Rows of each block; needed at root only. None: equal blocks.
        """
        array: Array = self._run(calls.scatter(self._at, x, root, out, counts))
        return array

    def iscatter(
        self, x: Array | None, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Work[Array]:
        """Start a `scatter`."""
        return self._start(calls.scatter(self._at, x, root, out, counts))

    def gather(
        self, x: Array, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Array | None:
        """Join the ranks' arrays along axis 0, in rank order, at root; None elsewhere.

        Between hosts a binomial tree: ⌈log₂ size⌉ steps; root receives (size − 1)/size of the result.

        Parameters
        ----------
        x : ndarray, shape (rows, …) or ()
            Alike on every rank but for the rows, if `counts` are given. 0-d arrays give shape (size,).
        root : int
        out : ndarray, optional
            At root.
        counts : sequence of int, optional
            Rows of each rank's array, the same on every rank. None: all have as many as this one.
        """
        array: Array | None = self._run(calls.gather(self._at, "gather", x, root, out, counts))
        return array

    def igather(
        self, x: Array, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Work[Array | None]:
        """Start a `gather`."""
        return self._start(calls.gather(self._at, "gather", x, root, out, counts))

    def allgather(self, x: Array, out: Array | None = None, counts: Counts | None = None) -> Array:
        """Join the ranks' arrays along axis 0, in rank order, at every rank.

        Parameters are those of `gather`. Between hosts a ring: size − 1 steps, in which each rank sends and
        receives (size − 1)/size of the result.
        """
        array: Array = self._run(calls.gather(self._at, "allgather", x, 0, out, counts))
        return array

    def iallgather(self, x: Array, out: Array | None = None, counts: Counts | None = None) -> Work[Array]:
        """Start an `allgather`."""
        return self._start(calls.gather(self._at, "allgather", x, 0, out, counts))

    def alltoall(
        self,
        x: Array,
        out: Array | None = None,
        send_counts: Counts | None = None,
        recv_counts: Counts | None = None,
    ) -> Array:
        """Send block j of this rank's array to rank j, and join the blocks that come, in rank order.

        Between hosts pairwise: size − 1 steps; each rank sends every block but its own once.

        Parameters
        ----------
        x : ndarray, shape (rows, …)
        out : ndarray, optional
        send_counts : sequence of int, optional
            Rows for each rank; given on all ranks or on none. None: equal blocks.
        recv_counts : sequence of int, optional
            Rows that come from each rank, if this rank knows; checked against what does come.
        """
        array: Array = self._run(calls.alltoall(self._at, x, out, send_counts, recv_counts))
        return array

    def ialltoall(
        self,
        x: Array,
        out: Array | None = None,
        send_counts: Counts | None = None,
        recv_counts: Counts | None = None,
    ) -> Work[Array]:
        """Start an `alltoall`."""
        return self._start(calls.alltoall(self._at, x, out, send_counts, recv_counts))

    # ------------------------------------------------------------------ messages

    def send(self, x: Array, dest: int, tag: int = 0) -> None:
        """Send an array to one rank.

        Returns when `x` may be used again: small messages do not wait for their receive.

        Parameters
        ----------
        x : ndarray
        dest : int
        tag : int
            0 or more. Messages of the same source and tag are received in the order in which they were sent.
        """
        self.isend(x, dest, tag).wait()

    def isend(self, x: Array, dest: int, tag: int = 0) -> Work[None]:
        """Start a `send`."""
        array = calls.array_of(x)
        code = code_of(array.dtype)
        return self._send(array, code, _ARRAY, dest, tag)

    def _send(self, array: Array, code: int, kind: int, dest: int, tag: int) -> Work[None]:
        dest = calls.root_of(dest, self.size, "dest")
        tag = _tag_of(tag, receives=False)
        packed = calls._packed(array)
        call = self._core.send(packed, code, array.shape, kind, dest, tag, self.timeout)
        return Work((call,), lambda: None)

    def recv(
        self, out: Array | None = None, source: int = ANY, tag: int = ANY, *, status: bool = False
    ) -> Any:
        """Receive an array.

        Parameters
        ----------
        out : ndarray, optional
            Receives it; must have its dtype and shape, else the message stays to be received. None: a new
            array.
        source, tag : int
            Whose message, or `ANY`.
        status : bool
            Return the `Status` too.

        Returns
        -------
        ndarray, or (ndarray, Status)
        """
        return self.irecv(out, source, tag, status=status).wait()

    def irecv(
        self, out: Array | None = None, source: int = ANY, tag: int = ANY, *, status: bool = False
    ) -> Work[Any]:
        """Start a `recv`."""
        if out is not None:
            calls.check_out(out, getattr(out, "shape", ()), getattr(out, "dtype", np.dtype(np.uint8)))
            code_of(out.dtype, "out")

        def allocate(
            dtype: int, shape: tuple[int, ...], counts: None, kind: int, source: int, tag: int
        ) -> Array:
            if kind == _OBJECT:
                raise TypeError(
                    f"the message from rank {source} with tag {tag} is a Python object: use recv_object"
                )
            expected = dtype_of(dtype)
            if out is None:
                return np.empty(shape, expected)
            calls.check_out(out, shape, expected)
            return out if out.flags.c_contiguous else np.empty(shape, expected)

        def finish(call: Any) -> Any:
            array = call.result
            if out is not None and array is not out:
                out[...] = array
                array = out
            return (array, Status._of(call.message())) if status else array

        return self._recv(allocate, finish, source, tag)

    def _recv(
        self, allocate: Callable[..., Array], finish: Callable[[Any], Any], source: int, tag: int
    ) -> Work[Any]:
        source = source if source == ANY else calls.root_of(source, self.size, "source")
        call = self._core.recv(allocate, source, _tag_of(tag, receives=True), self.timeout)
        return Work((call,), lambda: finish(call))

    def sendrecv(self, x: Array, dest: int, source: int, out: Array | None = None, tag: int = 0) -> Array:
        """Send an array to one rank and receive one from another, at the same time, with the same tag."""
        array: Array = self.isendrecv(x, dest, source, out, tag).wait()
        return array

    def isendrecv(
        self, x: Array, dest: int, source: int, out: Array | None = None, tag: int = 0
    ) -> Work[Array]:
        """Start a `sendrecv`."""
        array = calls.array_of(x)
        code_of(array.dtype)
        calls.root_of(dest, self.size, "dest")
        tag = _tag_of(tag, receives=False)
        if out is not None and np.may_share_memory(array, out):
            array = array.copy()
        receiving = self.irecv(out, source, tag)
        sending = self.isend(array, dest, tag)
        return Work((*receiving._calls, *sending._calls), receiving.wait)

    def probe(self, source: int = ANY, tag: int = ANY) -> Status:
        """Wait for a message and say what it is, without receiving it."""
        source = source if source == ANY else calls.root_of(source, self.size, "source")
        call = self._core.probe(source, _tag_of(tag, receives=True), self.timeout)
        call.wait(-1.0)
        return Status._of(call.message())

    def iprobe(self, source: int = ANY, tag: int = ANY) -> Status | None:
        """Say what message is there to be received, or None."""
        source = source if source == ANY else calls.root_of(source, self.size, "source")
        message = self._core.probe_now(source, _tag_of(tag, receives=True))
        return None if message is None else Status._of(message)

    # ------------------------------------------------------------------ Python objects

    def send_object(self, obj: object, dest: int, tag: int = 0) -> None:
        """Send any picklable object to one rank."""
        self.isend_object(obj, dest, tag).wait()

    def isend_object(self, obj: object, dest: int, tag: int = 0) -> Work[None]:
        """Start a `send_object`. The object is pickled at once."""
        packed = pack(obj)
        return self._send(packed, code_of(packed.dtype), _OBJECT, dest, tag)

    def recv_object(self, source: int = ANY, tag: int = ANY, *, status: bool = False) -> Any:
        """Receive an object; with ``status=True``, return (object, Status)."""
        return self.irecv_object(source, tag, status=status).wait()

    def irecv_object(self, source: int = ANY, tag: int = ANY, *, status: bool = False) -> Work[Any]:
        """Start a `recv_object`."""

        def allocate(
            dtype: int, shape: tuple[int, ...], counts: None, kind: int, source: int, tag: int
        ) -> Array:
            if kind != _OBJECT:
                raise TypeError(f"the message from rank {source} with tag {tag} is an array: use recv")
            return np.empty(shape, np.uint8)

        def finish(call: Any) -> Any:
            obj = unpack(call.result)
            return (obj, Status._of(call.message())) if status else obj

        return self._recv(allocate, finish, source, tag)

    def broadcast_object(self, obj: object = None, root: int = 0) -> Any:
        """Give every rank root's object; at root it is returned itself."""
        return self.ibroadcast_object(obj, root).wait()

    def ibroadcast_object(self, obj: object = None, root: int = 0) -> Work[Any]:
        """Start a `broadcast_object`."""
        sends = self.rank == calls.root_of(root, self.size)
        call = calls.broadcast(self._at, pack(obj) if sends else None, root)
        return self._start(calls.Call(call.arguments, lambda got: obj if sends else unpack(call.finish(got))))

    def scatter_object(self, objs: Sequence[object] | None = None, root: int = 0) -> Any:
        """Give rank r the object ``objs[r]`` of root."""
        return self.iscatter_object(objs, root).wait()

    def iscatter_object(self, objs: Sequence[object] | None = None, root: int = 0) -> Work[Any]:
        """Start a `scatter_object`."""
        if self.rank != calls.root_of(root, self.size):
            call = calls.scatter(self._at, None, root, None, None)
            return self._start(calls.Call(call.arguments, lambda got: unpack(call.finish(got))))
        mine, packed = self._one_for_each(objs)
        call = calls.scatter(self._at, np.concatenate(packed), root, None, [p.size for p in packed])
        return self._start(calls.Call(call.arguments, lambda _: mine))

    def gather_object(self, obj: object, root: int = 0) -> list[Any] | None:
        """Return the list of all ranks' objects at root, None elsewhere."""
        objs: list[Any] | None = self.igather_object(obj, root).wait()
        return objs

    def igather_object(self, obj: object, root: int = 0) -> Work[list[Any] | None]:
        """Start a `gather_object`."""
        root = calls.root_of(root, self.size)
        return self._start(calls.exchange("gather", pack(obj), root, _unpack_all))

    def allgather_object(self, obj: object) -> list[Any]:
        """Return the list of all ranks' objects."""
        objs: list[Any] = self.iallgather_object(obj).wait()
        return objs

    def iallgather_object(self, obj: object) -> Work[list[Any]]:
        """Start an `allgather_object`."""
        return self._start(calls.exchange("allgather", pack(obj), 0, _unpack_all))

    def alltoall_object(self, objs: Sequence[object]) -> list[Any]:
        """Send ``objs[j]`` to rank j; return the list of what the ranks have sent to this one."""
        received: list[Any] = self.ialltoall_object(objs).wait()
        return received

    def ialltoall_object(self, objs: Sequence[object]) -> Work[list[Any]]:
        """Start an `alltoall_object`."""
        _, packed = self._one_for_each(objs)
        return self._start(calls.exchange_all(packed, _unpack_all))

    def reduce_object(self, obj: object, op: ObjectOp = "sum", root: int = 0) -> Any:
        """Reduce the ranks' objects in rank order, at root; None elsewhere.

        Parameters
        ----------
        obj : object
        op : str or callable
            ``sum prod min max band bor bxor land lor lxor`` as Python's operators, or a function of two
            objects.
        root : int
        """
        return self.ireduce_object(obj, op, root).wait()

    def ireduce_object(self, obj: object, op: ObjectOp = "sum", root: int = 0) -> Work[Any]:
        """Start a `reduce_object`."""
        root = calls.root_of(root, self.size)
        return self._start(calls.exchange("gather", pack(obj), root, _folder(op)))

    def allreduce_object(self, obj: object, op: ObjectOp = "sum") -> Any:
        """Reduce the ranks' objects in rank order, at every rank. Parameters are those of `reduce_object`."""
        return self.iallreduce_object(obj, op).wait()

    def iallreduce_object(self, obj: object, op: ObjectOp = "sum") -> Work[Any]:
        """Start an `allreduce_object`."""
        return self._start(calls.exchange("allgather", pack(obj), 0, _folder(op)))

    def _one_for_each(self, objs: Sequence[object] | None) -> tuple[object, list[Array]]:
        if objs is None or isinstance(objs, str | bytes) or not hasattr(objs, "__len__"):
            raise TypeError(
                f"objs must be a sequence with an object for each rank, not {type(objs).__name__}"
            )
        if len(objs) != self.size:
            raise ValueError(f"objs must have {self.size} objects, one for each rank, not {len(objs)}")
        return objs[self.rank], [pack(obj) for obj in objs]


def _tag_of(tag: object, *, receives: bool) -> int:
    if isinstance(tag, bool) or not isinstance(tag, int | np.integer):
        raise TypeError(f"tag must be a whole number, not {tag!r}")
    if receives and tag == ANY:
        return ANY
    if not 0 <= tag < _MAX_TAG:
        raise ValueError(f"tag must be from 0 to 2**62 - 1{' or ANY' if receives else ''}, not {tag}")
    return int(tag)


def _unpack_all(joined: Array | None, sizes: list[int]) -> list[Any] | None:
    if joined is None:
        return None
    ends = np.cumsum(sizes)
    # Each block in memory of its own, so that one kept object does not keep the bytes of all, and is aligned.
    return [unpack(joined[end - size : end].copy()) for end, size in zip(ends, sizes, strict=True)]


def _folder(op: ObjectOp) -> Callable[[Array | None, list[int]], Any]:
    function = _OBJECT_OPS.get(op) if isinstance(op, str) else op
    if function is None:
        raise ValueError(
            f"op must be one of {', '.join(_OBJECT_OPS)}, or a function of two objects, not {op!r}"
        )
    if not callable(function):
        raise TypeError(f"op must be a name or a function of two objects, not {type(op).__name__}")

    def finish(joined: Array | None, sizes: list[int]) -> Any:
        objs = _unpack_all(joined, sizes)
        return None if objs is None else fold(function, objs)

    return finish


_open_worlds: list[Comm] = []


def close_all() -> None:
    """Close what the program has left open. For the end of the interpreter."""
    for comm in list(_open_worlds):
        try:
            comm.close()
        except CommError:
            continue
