"""What a process does that has no descriptors left: say so, and to the other ranks too."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

__all__ = ["Spare", "exhausted", "limit"]

_MANY = 3  # as many as a call to a store in a folder has open at a time


def exhausted(error: BaseException | None) -> bool:
    """Say whether an error is, or comes from, that this process, or the system, can have no more."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False


def limit() -> str:
    """Return what a message says of the limit."""
    return f"`ulimit -n` is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"


class Spare:
    """Some descriptors that are kept for the moment in which there are no others.

    Raises
    ------
    OSError
        If there are none now.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        try:
            for _ in range(_MANY):
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have them. May be called again."""
        while self._held:
            with contextlib.suppress(OSError):
                os.close(self._held.pop())
