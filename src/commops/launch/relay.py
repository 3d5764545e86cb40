"""Output of the ranks, passed on in whole lines.

A `Lines` takes what one rank writes to one stream and cuts it into lines; a `Sink` is the launcher's own
stream, to which the lines of all ranks go. Neither ever blocks: a reader that stands still (a pager, a
stopped terminal) holds back the ranks, not the launcher, which must still see deaths and signals.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections import deque

__all__ = ["Lines", "Sink"]

_HIGH = 1 << 20  # bytes a sink may hold before the ranks that feed it have to wait
_LINE = 1 << 20  # a line longer than this is passed on in parts
_READ = 1 << 16


class Sink:
    """A stream of the launcher's, written when it can take more.

    Parameters
    ----------
    descriptor : int
        Borrowed.

    Attributes
    ----------
    broken : bool
        Whether its reader is gone.
    lost : str
        Why output was lost, unless its reader was gone.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.broken = False
        self.lost = ""
        self._queue: deque[memoryview] = deque()
        self._pending = 0
        self._in_line = False
        # After poll() has said "writable", a pipe or terminal takes this much without blocking.
        self._step = select.PIPE_BUF
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._step = 1 << 20
        except OSError:  # the launcher was started with this stream closed
            self.broken = True

    @property
    def pending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether it should not be given more for now."""
        return self._pending > _HIGH

    def put(self, text: bytes) -> None:
        """Add text that starts a line, after ending a line that somebody left open."""
        if self.broken or not text:
            return
        if self._in_line:
            text = b"\n" + text
        self._in_line = not text.endswith(b"\n")
        self._queue.append(memoryview(text))
        self._pending += len(text)

    def write_some(self) -> None:
        """Write once, after poll() has said that the descriptor is writable or broken."""
        if not self._queue:
            return
        piece = self._queue[0]
        try:
            written = os.write(self.descriptor, piece[: self._step])
        except BlockingIOError:
            return
        except OSError as error:  # the reader is gone (EPIPE), or the disk is full
            self.broken = True
            self.lost = "" if error.errno == errno.EPIPE else error.strerror or str(error)
            self._queue.clear()
            self._pending = 0
            return
        self._pending -= written
        if written == len(piece):
            self._queue.popleft()
        else:
            self._queue[0] = piece[written:]

    def drain(self, patience: float | None) -> None:
        """Write everything; give up when the reader takes nothing for `patience` seconds (None: never)."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        while self._queue and poll.poll(None if patience is None else patience * 1000):
            self.write_some()


class Lines:
    """One output stream of one rank.

    Parameters
    ----------
    descriptor : int
        The reading end of its pipe. Owned.
    sink : Sink
        Where its lines go.
    label : bytes
        Put before each line. It may be set.
    """

    def __init__(self, descriptor: int, sink: Sink, label: bytes = b"") -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.sink = sink
        self.closed = False
        self.label = label
        self._open_line = b""

    def read_some(self) -> bool:
        """Read once and pass on the lines that are whole; say whether there may be more to read now."""
        if self.closed:
            return False
        try:
            data = os.read(self.descriptor, _READ)
        except BlockingIOError:
            return False
        if not data or self.sink.broken:
            # Closing the pipe of a broken sink gives the rank the EPIPE that it would have had by itself.
            self.close()
            return False
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            self._pass_on(self._open_line + whole + newline)
            self._open_line = rest
        else:
            self._open_line += data
        if len(self._open_line) > _LINE:
            self._pass_on(self._open_line)
            self._open_line = b""
        return True

    def read_all(self) -> None:
        """Read what is in the pipe now."""
        while self.read_some():
            pass

    def close(self) -> None:
        """Pass on a last line that has no end, and close the pipe. Twice is fine."""
        if not self.closed:
            self.closed = True
            self._pass_on(self._open_line)
            self._open_line = b""
            with contextlib.suppress(OSError):
                os.close(self.descriptor)

    def _pass_on(self, text: bytes) -> None:
        if self.label and text:
            body, newline = (text[:-1], b"\n")
            if not text.endswith(b"\n"):
                body = text
            text = self.label + body.replace(b"\n", b"\n" + self.label) + newline
        self.sink.put(text)
