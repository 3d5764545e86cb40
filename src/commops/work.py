"""What an `i…` call returns: a call that is still going on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from commops._core import work as core
from commops.errors import CommTimeoutError

if TYPE_CHECKING:
    import asyncio

__all__ = ["Work"]

T = TypeVar("T")


class Work(core.Started, Generic[T]):
    """A call in progress. It goes on by itself, whether or not anybody waits for it.

    The arrays that were passed to the call must not be written to, nor its `out` read, before the call has
    ended. A `Work` may be dropped: the call goes on all the same.

    Parameters
    ----------
    calls : sequence
        The core's calls that this one is made of.
    finish : callable
        Makes the result when all of them have ended. It is called once.
    """

    __slots__ = ()

    def __init__(self, calls: tuple[Any, ...], finish: Callable[[], T]) -> None:
        self._calls = calls
        self._finish = finish

    def __repr__(self) -> str:
        return f"<commops.Work {'done' if self.done() else 'in progress'}>"

    def done(self) -> bool:
        """Say whether the call has ended, well or not."""
        return self._settled or all(call.done for call in self._calls)

    if TYPE_CHECKING:

        def wait(self, timeout: float | None = None) -> T:
            """Wait for the end of the call and return its result."""

    def result(self, timeout: float | None = None) -> T:
        """Do the same as `wait`, with the same errors."""
        return self.wait(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the call and return what it raises, or None.

        Parameters
        ----------
        timeout : float, optional
            As for `wait`.

        Raises
        ------
        TypeError, ValueError
            If `timeout` is no number of seconds from 0 up.
        CommTimeoutError
            If `timeout` seconds have passed. The call goes on.
        """
        _seconds(timeout)
        if not self._settled:
            with contextlib.suppress(Exception):
                self.wait(timeout)
            if not self._settled:
                raise CommTimeoutError(f"the call has not ended within {timeout} s")
        return self._error

    def _wait(self, timeout: float | None) -> T:
        seconds = _seconds(timeout)
        if not self._settled:
            self._wait_for_all(seconds)
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def _wait_for_all(self, seconds: float) -> None:
        call: Any = None
        for call in self._calls:
            try:
                call.wait(seconds)
            except Exception as error:
                if not call.done:
                    raise
                self._settle(error=error)
                return
        finish = self._finish
        if self._settled:  # by another thread
            return
        if finish is None:  # a message by itself: what it was received into
            self._settle(result=call.result)
            return
        try:
            self._settle(result=finish())
        except Exception as error:
            self._settle(error=error)

    def _settle(self, *, result: Any = None, error: Exception | None = None) -> None:
        self._result = result
        self._error = error
        self._settled = True
        self._finish = None
        self._calls = ()

    def __await__(self) -> Generator[Any, None, T]:
        """Let other tasks of the event loop run until the call has ended."""
        import asyncio  # whoever awaits has it loaded; others need not wait for it

        for call in self._calls:
            if call.done:
                continue
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            core.when_ended(call, partial(_tell, loop, ended))
            yield from ended.__await__()
        return self.wait()


def _seconds(timeout: object) -> float:
    """Return a time-out as the core takes it, where a negative number means that there is none."""
    if timeout is None:
        return -1.0
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | np.integer | np.floating):
        raise TypeError(f"timeout must be a number of seconds, or None, not {timeout!r}")
    if not timeout >= 0:  # also for NaN
        raise ValueError(f"timeout must be a number of seconds, 0 or more, or None, not {timeout!r}")
    return float(timeout)


def _tell(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    """Wake the task; called by whatever thread ended the call."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(None))
