"""Behind `commops.launch`: call a function as several ranks, from any process, and get what they return."""

from __future__ import annotations

import codecs
import contextlib
import math
import operator
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from commops.errors import CommTimeoutError, PeerLostError
from commops.launch.failure import Failure, from_status
from commops.launch.parcel import Kind, Parcel, pack, receive, send, unpack
from commops.launch.process import default_threads
from commops.launch.supervise import Outcome
from commops.rendezvous.credentials import job_credentials

__all__ = ["call"]

_TRANSPORTS = ("auto", "shm", "tcp")
_SERVER_GRACE = 5.0  # seconds in which the server ends by itself once it is told; it needs about one

# The search path is set before anything of commops is imported, so that the ranks see the same modules.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[2:]; from commops.launch._server import main; main(int(sys.argv[1]))"
)


def call(
    fn: Callable[..., Any],
    n: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    transport: str,
    timeout: float | None,
) -> list[Any]:
    """Do what `commops.launch.launch` promises."""
    n = _checked(fn, n, transport, timeout)
    job_credentials(False)  # the launching process would find the same mistakes, and could tell nobody
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    try:
        order = pack((fn, args, kwargs))
    except Exception as error:
        raise TypeError(f"fn or its arguments cannot be pickled: {error}") from error
    with contextlib.closing(order), _Server(n) as server:
        server.order(n, transport, order)
        if not server.follow(deadline):
            late = ", ".join(map(str, server.missing()))
            server.stop()
            server.follow(time.monotonic() + _SERVER_GRACE)
            if not server.has_cause():  # a rank that failed before explains the others' silence better
                raise CommTimeoutError(f"launch: after {timeout:g} s, ranks that had not returned: {late}")
        return server.harvest()


def _checked(fn: object, n: object, transport: object, timeout: object) -> int:
    """Return `n` as an int if all arguments make sense."""
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {fn!r}")
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an int, not {n!r}")
    count = operator.index(n)
    if count < 1:
        raise ValueError(f"n must be 1 or more, not {count}")
    if transport not in _TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(_TRANSPORTS)}, not {transport!r}")
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {timeout!r}")
    return count


class _Server:
    """The process that forks the ranks, and what has come from it and from them.

    Leaving the context ends it, with all ranks, whatever state they are in.
    """

    def __init__(self, n: int) -> None:
        self._results: dict[int, Parcel] = {}
        self._errors: dict[int, Parcel] = {}
        self._outcome: Outcome | None = None
        self._n = n
        self._echoes: dict[int, _Echo] = {}

    def __enter__(self) -> _Server:
        if not sys.executable:
            raise RuntimeError("sys.executable names no interpreter to start")
        with contextlib.ExitStack() as stack:
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(self._sock.close)
            with theirs:
                path = [entry for entry in sys.path if isinstance(entry, str)]
                self._process = subprocess.Popen(
                    [sys.executable, *_interpreter_flags(), "-c", _BOOTSTRAP, str(theirs.fileno()), *path],
                    stdin=subprocess.DEVNULL,
                    stdout=_target(sys.stdout, 1),
                    stderr=_target(sys.stderr, 2),
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **default_threads(self._n)},
                    # Ctrl-C is for this process to judge; it ends the ranks if it gives up waiting.
                    process_group=0,
                )
            stack.callback(self._end)
            self._pidfd = os.pidfd_open(self._process.pid)
            stack.callback(os.close, self._pidfd)
            for pipe, stream in ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr)):
                if pipe is not None:
                    stack.callback(pipe.close)
                    self._echoes[pipe.fileno()] = _Echo(pipe.fileno(), stream)
            self._sock.setblocking(False)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._sock.close()  # the server sees that, and ends its ranks
        try:
            self._process.wait(_SERVER_GRACE)
        except BaseException as error:  # it does not answer, or Ctrl-C was pressed again
            self._process.kill()  # the kernel kills the ranks with it
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def order(self, n: int, transport: str, function: Parcel) -> None:
        """Tell the server what to run."""
        # If the server has died already, `follow` finds that out.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self._sock, Kind.ORDER, (n, transport, list(sys.argv)), function)

    def follow(self, deadline: float) -> bool:
        """Take in results and output until the server ends; say whether it did by the deadline."""
        poll = select.poll()
        for descriptor in (self._sock.fileno(), self._pidfd, *self._echoes):
            poll.register(descriptor, select.POLLIN)
        while True:
            pause = deadline - time.monotonic()
            ready = poll.poll(None if pause == math.inf else max(0, math.ceil(pause * 1000)))
            descriptors = {descriptor for descriptor, _ in ready}
            for descriptor in descriptors & self._echoes.keys():
                if self._echoes[descriptor].read_some() is False:
                    poll.unregister(descriptor)
            if not self._take() and self._sock.fileno() in descriptors:
                poll.unregister(self._sock)
            if self._pidfd in descriptors:
                break
            if not ready and pause <= 0:
                return False
        self._take()
        for echo in self._echoes.values():
            while echo.read_some():
                pass
        return True

    def _take(self) -> bool:
        """Take all packets that are there; say whether more may come."""
        while True:
            try:
                received = receive(self._sock)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            if received is None:
                return False
            kind, about, parcel = received
            self._stack.callback(parcel.close)
            if kind is Kind.OUTCOME:
                self._outcome = unpack(parcel)
            else:
                (self._results if kind is Kind.RESULT else self._errors)[about] = parcel

    def stop(self) -> None:
        """Have the server end its ranks; what it says about them is still to come."""
        self._sock.shutdown(socket.SHUT_WR)

    def has_cause(self) -> bool:
        """Whether a rank is known to have failed by itself."""
        return self._outcome is not None and not all(f.consequence for f in self._outcome.failures)

    def missing(self) -> list[int]:
        """Return the ranks from which no result has come."""
        return [rank for rank in range(self._n) if rank not in self._results]

    def harvest(self) -> list[Any]:
        """Return the results in rank order, or raise what went wrong first."""
        if self._outcome is None:
            end = from_status(0, self._process.wait(), stopped=False).summary
            raise PeerLostError(self.missing(), f"the process that launched them: {end}")
        if self._outcome.failures:
            cause = self._outcome.failures[0]
            raise _failed(cause, self._errors.get(cause.rank))
        if missing := self.missing():
            raise PeerLostError(missing, "ended before the function returned")
        return [_unpacked(rank, self._results[rank]) for rank in range(self._n)]


def _unpacked(rank: int, parcel: Parcel) -> Any:
    try:
        return unpack(parcel)
    except Exception as error:
        raise TypeError(f"what rank {rank} returned cannot be unpickled here: {error}") from error


def _failed(failure: Failure, parcel: Parcel | None) -> Exception:
    """Return the exception that tells of a rank's failure."""
    if not failure.traceback:
        return PeerLostError([failure.rank], f"{failure.summary} before the function returned")
    error = None
    if parcel is not None:
        with contextlib.suppress(Exception):
            error = unpack(parcel)
    if not isinstance(error, Exception):
        error = RuntimeError(failure.summary)
    error.add_note(f"raised by rank {failure.rank}:\n\n{failure.traceback}")
    return error


class _Echo:
    """Writes to a stream of this process's what the server and the ranks print.

    Used where that stream is not simply the process's own descriptor: in notebooks, under test runners, in
    `contextlib.redirect_stdout`.
    """

    def __init__(self, descriptor: int, stream: TextIO) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def read_some(self) -> bool | None:
        """Pass on what is there; return False when no more can come, None when no more is there now."""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return None
        self._stream.write(self._decoder.decode(data, final=not data))
        self._stream.flush()
        return bool(data)


def _target(stream: TextIO | None, descriptor: int) -> int | None:
    """Return what the server's stream is to be: this process's own, or a pipe to it, or nothing."""
    if stream is None:
        return subprocess.DEVNULL
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.flush()
        if stream.fileno() == descriptor:
            return None
    return subprocess.PIPE


def _interpreter_flags() -> list[str]:
    """Return the options that this interpreter was started with, as far as children should have them."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags
