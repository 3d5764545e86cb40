"""Messages from one rank to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from commops._core import messages as core
from commops.arguments import ANY, array_of, check_out, packed, rank_of, receiver_of, source_of, tag_of
from commops.dtypes import Array, code_of, dtype_of
from commops.group import Group
from commops.work import Work

__all__ = ["ARRAY", "OBJECT", "Messages", "Status"]

ARRAY, OBJECT = 0, 1  # what a message carries


class Status(NamedTuple):
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


def status_of(message: tuple[int, int, int, int, int, tuple[int, ...]]) -> Status:
    """Make the Status of what the core says of a message."""
    source, tag, nbytes, dtype, carries, shape = message
    return Status(source, tag, nbytes, None if carries == OBJECT else dtype_of(dtype), shape)


class Messages(Group):
    """The calls of a `Comm` that involve two ranks.

    Messages of the same source and tag are received in the order in which they were sent. A message may come
    before its receive: small ones wait at the receiver, large ones at the sender.
    """

    __slots__ = ()

    def send(self, x: Array, dest: int, tag: int = 0) -> None:
        """Send an array to one rank.

        Returns when `x` may be used again: small messages do not wait for their receive, large ones do
        (``COMMOPS_EAGER_BYTES``). It is moved once; its dtype and shape go with it.

        Parameters
        ----------
        x : ndarray
        dest : int
            A rank; this one too, if its receive is started before or the message is small.
        tag : int
            From 0 to 2**62 - 1.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        if not core.plain_send(self._core, x, dest, tag, self._timeout):
            self._send(array_of(x), ARRAY, dest, tag, waits=True).wait(-1.0)

    def isend(self, x: Array, dest: int, tag: int = 0) -> Work[None]:
        """Start a `send`."""
        work: Work[None] | None = core.plain_isend(self._core, Work, x, dest, tag, self._timeout)
        if work is None:
            return Work((self._send(array_of(x), ARRAY, dest, tag),), lambda: None)
        return work

    def _send(self, array: Array, carries: int, dest: int, tag: int, *, waits: bool = False) -> Any:
        """Start a message; return the core's call."""
        code = code_of(array.dtype)
        dest = rank_of(dest, self._at.size, "dest")
        tag = tag_of(tag, receives=False)
        return core.send(
            self._core, packed(array), code, array.shape, carries, dest, tag, self._timeout, waits
        )

    def recv(
        self, out: Array | None = None, source: int = ANY, tag: int = ANY, *, status: bool = False
    ) -> Any:
        """Receive an array.

        Parameters
        ----------
        out : ndarray, optional
            Receives it; must have its dtype and shape. None: a new array, of the dtype and shape that was
            sent.
        source, tag : int
            Whose message, or `ANY`.
        status : bool
            Return the `Status` too.

        Returns
        -------
        ndarray, or (ndarray, Status)

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or the message does not fit `out` or is a Python object. It then
            stays to be received.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        if out is not None and not status and core.plain_recv(self._core, out, source, tag, self._timeout):
            return out
        allocate, finish = _receiving(out, status)
        call = self._recv(allocate, source, tag, waits=True)
        call.wait(-1.0)
        return finish(call)

    def irecv(
        self, out: Array | None = None, source: int = ANY, tag: int = ANY, *, status: bool = False
    ) -> Work[Any]:
        """Start a `recv`."""
        if out is not None and not status:
            work = core.plain_irecv(self._core, Work, _receiving, out, source, tag, self._timeout)
            if work is not None:
                return work  # type: ignore[no-any-return]
        allocate, finish = _receiving(out, status)
        call = self._recv(allocate, source, tag)
        return Work((call,), lambda: finish(call))

    def _recv(self, allocate: Callable[..., Array], source: int, tag: int, *, waits: bool = False) -> Any:
        """Start a receive; return the core's call."""
        source = source_of(source, self._at.size)
        return core.recv(self._core, allocate, source, tag_of(tag, receives=True), self._timeout, waits)

    def sendrecv(self, x: Array, dest: int, source: int, out: Array | None = None, tag: int = 0) -> Array:
        """Send an array to one rank and receive one from another, at the same time, with the same tag.

        Parameters
        ----------
        x : ndarray
        dest : int
        source : int
            A rank, or `ANY`.
        out : ndarray, optional
            Receives what comes, and must have its dtype and shape; may be x. None: a new array.
        tag : int
            From 0 to 2**62 - 1.

        Returns
        -------
        ndarray
            `out`, or a new array of the dtype and shape that was sent.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong. Nothing has been sent; but `x` has, or is still to be fetched where it is
            large, if what comes is found not to fit `out`.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        if out is not None:
            done = core.plain_sendrecv(self._core, Work, x, dest, source, out, tag, self._timeout)
            if done is True:
                return out
            if done is not False:  # what comes does not fit: a recv says so, unless a thread has taken it
                received: Array = self.recv(out, source, tag)
                done.wait()
                return received
        array: Array = self.isendrecv(x, dest, source, out, tag).wait()
        return array

    def isendrecv(
        self, x: Array, dest: int, source: int, out: Array | None = None, tag: int = 0
    ) -> Work[Array]:
        """Start a `sendrecv`."""
        array = array_of(x)
        code_of(array.dtype)
        rank_of(dest, self._at.size, "dest")
        tag = tag_of(tag, receives=False)
        if out is not None and np.may_share_memory(array, receiver_of(out)):
            array = array.copy()
        receiving = self.irecv(out, source, tag)
        sending = self.isend(array, dest, tag)
        return Work((*receiving._calls, *sending._calls), receiving.wait)

    def probe(self, source: int = ANY, tag: int = ANY) -> Status:
        """Wait for a message and say what it is, without receiving it.

        Parameters
        ----------
        source, tag : int
            Whose message, or `ANY`.

        Returns
        -------
        Status
            Its `source` and `tag` receive just this message, if no other thread does.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        source = source_of(source, self._at.size)
        call = core.probe(self._core, source, tag_of(tag, receives=True), self._timeout)
        call.wait(-1.0)
        return status_of(call.message())

    def iprobe(self, source: int = ANY, tag: int = ANY) -> Status | None:
        """Say what message is there to be received, or None. Parameters and errors are those of `probe`."""
        message = core.probe_now(self._core, source_of(source, self._at.size), tag_of(tag, receives=True))
        return None if message is None else status_of(message)


def _receiving(out: Array | None, status: bool) -> tuple[Callable[..., Array], Callable[[Any], Any]]:
    """Return what finds room for an array when its message has come, and what makes the result of a recv."""
    if out is not None:
        code_of(receiver_of(out).dtype, "out")

    def allocate(
        dtype: int, shape: tuple[int, ...], counts: None, carries: int, source: int, tag: int
    ) -> Array:
        if carries == OBJECT:
            raise TypeError(
                f"the message from rank {source} with tag {tag} is a Python object: use recv_object"
            )
        expected = dtype_of(dtype)
        if out is None:
            return np.empty(shape, expected)
        check_out(out, shape, expected)
        return out if out.flags.c_contiguous else np.empty(shape, expected)

    def finish(call: Any) -> Any:
        array = call.result
        if out is not None and array is not out:
            out[...] = array
            array = out
        return (array, status_of(call.message())) if status else array

    return allocate, finish
