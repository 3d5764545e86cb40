"""Time-outs: how long a call may take, and how a store that has to poll spends that time."""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ["DEFAULT_TIMEOUT", "Deadline", "check_timeout"]

DEFAULT_TIMEOUT = 60.0
"""Seconds that a call may take when nobody says otherwise."""

# "For ever" still has to fit what settimeout() and select() take: 2³¹ milliseconds, which is 24.8 days.
_LONGEST = 20 * 86400.0


def check_timeout(timeout: float) -> float:
    """Return a time-out as a float that every system call accepts.

    Parameters
    ----------
    timeout : float
        Seconds, zero or more; ``math.inf`` is taken as 20 days.

    Raises
    ------
    TypeError, ValueError
        If it is not a number, is negative, or is not a number by value (NaN).
    """
    try:
        seconds = float(timeout)
    except (TypeError, ValueError):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}") from None
    if not seconds >= 0:  # also false for NaN
        raise ValueError(f"timeout must be zero or more seconds, not {timeout!r}")
    return min(seconds, _LONGEST)


class Deadline:
    """A point on the monotonic clock, `timeout` seconds after it is made."""

    __slots__ = ("_start", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = check_timeout(timeout)
        self._start = time.monotonic()

    def remaining(self) -> float:
        """Return the seconds that are left, never less than zero."""
        return max(0.0, self._start + self.timeout - time.monotonic())

    def waited(self) -> float:
        """Return the seconds since the deadline was set."""
        return time.monotonic() - self._start

    def polls(self, shortest: float = 0.001, longest: float = 0.020) -> Iterator[None]:
        """Yield once at once, then after each of a series of sleeps, the last time at the deadline.

        Each sleep is half as long again as the one before, from `shortest` to `longest` seconds: an event
        that is near is noticed soon, and one that is far costs fifty look-ups a second.
        """
        pause = shortest
        while True:
            yield
            left = self.remaining()
            if left <= 0.0:
                return
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, longest)
