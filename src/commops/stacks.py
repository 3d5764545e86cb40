"""Python stacks of a rank on request: ``commops top --stack`` asks for them by a signal.

A rank offers a file in memory, into which faulthandler writes the stacks of all threads when the signal
comes. That works while Python is stuck in a call, needs no right to trace processes, and costs nothing
meanwhile.
"""

from __future__ import annotations

import os
import signal
import time

__all__ = ["SIGNAL", "ask", "offer", "withdraw"]

SIGNAL = signal.SIGRTMAX - 7
"""The signal by which a rank is asked."""

_NAME = "commops-stack"
_LONGEST = 2.0  # seconds that an answer may take
_QUIET = 0.05  # seconds without another line after which it is whole

_offered_by = 0  # the process: a fork of it offers its own
_file = -1  # what it offers


def offer() -> None:
    """Let this process be asked, unless it uses the signal itself. May be called again, by any thread.

    There is no other interpreter than the main one here, since NumPy works in no other.
    """
    global _offered_by, _file
    if _offered_by == os.getpid() or signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return
    import faulthandler
    import fcntl

    _offered_by = os.getpid()
    if _file >= 0:
        os.close(_file)  # of the process that this is a fork of
        _file = -1
    try:
        _file = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    except OSError:  # without descriptors, or the system call: there are worse things to tell of
        faulthandler.unregister(SIGNAL)
        return
    fcntl.fcntl(_file, fcntl.F_SETFL, os.O_APPEND)  # whoever asks has emptied it: write where it ends now
    faulthandler.register(SIGNAL, file=_file, all_threads=True, chain=False)


def withdraw() -> None:
    """Take back what `offer` has done: this process is no rank any more. Without an offer it does nothing."""
    global _offered_by, _file
    if _offered_by != os.getpid() or _file < 0:
        return
    import faulthandler

    faulthandler.unregister(SIGNAL)
    os.close(_file)
    _file, _offered_by = -1, 0


def ask(pid: int) -> str:
    """Ask a process for its stacks.

    Parameters
    ----------
    pid : int

    Returns
    -------
    str
        As faulthandler writes them, the innermost call of each thread first.

    Raises
    ------
    ValueError
        If it does not offer any, or does not answer. The message says why, as far as it is known.
    """
    from commops import flight

    pidfd = _opened(pid)
    try:
        # The signal would end a process that does not expect it, such as one that has left its job.
        path = next((path for owner, path in flight.descriptors(f"/memfd:{_NAME} ") if owner == pid), None)
        caught = int(flight.status(pid).get("SigCgt", "0").strip(), 16)
        if path is None or not caught >> (SIGNAL - 1) & 1:
            raise ValueError(
                f"process {pid} offers no stacks: it has another use for signal {SIGNAL}, or is no rank"
            )
        if flight.status(pid).get("State", "").strip()[:1] in ("T", "t"):
            raise ValueError(f"process {pid} is stopped, and cannot answer: `kill -CONT {pid}` lets it go on")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, 0)
            signal.pidfd_send_signal(pidfd, SIGNAL)
            return _answer(fd) or _silence(pid)
        finally:
            os.close(fd)
    except OSError as error:
        raise ValueError(f"process {pid} cannot be asked: {error.strerror}") from error
    finally:
        os.close(pidfd)


def _opened(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise ValueError(f"process {pid} cannot be asked: {error.strerror}") from error


def _answer(fd: int) -> str:
    end, size, changed = time.monotonic() + _LONGEST, 0, time.monotonic()
    while time.monotonic() < end and not (size and time.monotonic() - changed > _QUIET):
        time.sleep(_QUIET / 5)
        if (now := os.fstat(fd).st_size) != size:
            size, changed = now, time.monotonic()
    return os.pread(fd, size, 0).decode(errors="replace")


def _silence(pid: int) -> str:
    raise ValueError(f"process {pid} does not answer within {_LONGEST:g} s: is it stuck in the system?")
