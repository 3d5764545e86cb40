"""Starting ranks, and finding out that one is a rank.

`launch` calls a function as several ranks; ``commops run`` (`commops.launch.run`) does so with a script;
`commops.launch.environment` reads what these and other launchers tell a process about its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["launch"]


def launch(
    fn: Callable[..., Any],
    n: int,
    *args: Any,
    transport: str = "auto",
    timeout: float | None = None,
    **kwargs: Any,
) -> list[Any]:
    """Call ``fn(comm, *args, **kwargs)`` as `n` ranks on this machine.

    The ranks are fresh processes, so this works from notebooks, from the interactive interpreter and from
    programs with threads; `fn` may be a lambda, a closure, or a function of `__main__`. They see the caller's
    ``sys.path``, ``sys.argv``, folder and environment. What they print appears on the caller's ``sys.stdout``
    and ``sys.stderr``, line by line. They read nothing from standard input.

    Parameters
    ----------
    fn : callable
        Its first argument is the communicator of its rank.
    n : int
        Number of ranks, 1 or more.
    *args, **kwargs
        Passed on. Large arrays are shared by all ranks until one of them writes to its own.
    transport : {"auto", "shm", "tcp"}
        As of `commops.init`.
    timeout : float, optional
        Seconds for everything, the start of the processes included. None: no limit.

    Returns
    -------
    list
        What each rank returned, in rank order.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or `fn` or its arguments cannot be pickled; nothing was started.
        If a rank's result cannot be pickled: a TypeError that names the rank.
    PeerLostError
        If a rank died; it names the rank and the signal.
    CommTimeoutError
        If not all ranks had returned within `timeout` seconds; it names those.
    Exception
        What `fn` raised in the rank that failed first, with that rank's number and traceback as a note.
        A `RuntimeError` with its text where the exception itself cannot be pickled.
    """
    # Only here, because most programs that import commops are ranks and launch nothing.
    from commops.launch.function import call

    return call(fn, n, args, kwargs, transport=transport, timeout=timeout)
