"""The signals that end programs, as something to poll for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

__all__ = ["SignalQueue", "foreground", "queued"]


class SignalQueue:
    """Signals that arrived, in order. See `queued`."""

    def __init__(self, numbers: tuple[signal.Signals, ...]) -> None:
        self.numbers = numbers
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    @property
    def writer(self) -> int:
        """The descriptor that the interpreter writes to."""
        return self._theirs.fileno()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._ours.fileno()

    def hold(self) -> None:
        """Hold the signals back, so that none is lost in a process that is about to be forked."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.numbers)

    def let_through(self) -> None:
        """Let signals arrive, those too that were held back."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)

    def take(self) -> list[signal.Signals]:
        """Return what has arrived and was not taken."""
        try:
            arrived = self._ours.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in arrived if number in self.numbers]

    def close(self) -> None:
        """Let go of the sockets."""
        self._ours.close()
        self._theirs.close()

    def restore_in_child(self) -> None:
        """Give a forked process the signal handling of a fresh program."""
        signal.set_wakeup_fd(-1)
        for number in self.numbers:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)
        self.close()


@contextlib.contextmanager
def queued() -> Iterator[SignalQueue]:
    """Queue SIGINT, SIGTERM and SIGHUP instead of acting on them; those that are ignored stay ignored.

    They are held back on entry, so that none is lost between a fork and the moment its process has its
    own handling; `SignalQueue.let_through` lets them through.
    """
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, before)
    with contextlib.closing(SignalQueue(tuple(before))) as queue:
        wakeup = signal.set_wakeup_fd(queue.writer, warn_on_full_buffer=False)
        for number in before:
            signal.signal(number, lambda *_: None)  # the byte in the queue is what counts
        try:
            yield queue
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def foreground() -> bool:
    """Whether a Ctrl-C at the terminal reaches this process's whole group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
