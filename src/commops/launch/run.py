"""``commops run``: a script or a module, as several ranks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from commops.launch.main import find_script, run_module, run_script
from commops.launch.supervise import fork_ranks
from commops.rendezvous.credentials import Credentials

__all__ = ["run"]


def run(
    n: int,
    program: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    label: bool = False,
    tls: Credentials | None = None,
    max_restarts: int = 0,
    elastic: tuple[int, int] | None = None,
) -> int:
    """Run a program as `n` ranks on this machine, and return the exit code of the whole.

    The calling process is the launcher. It forks the ranks, so it must have no threads, and nothing else to
    do. Programs that want ranks of their own call `commops.launch`.

    Parameters
    ----------
    n : int
        Number of ranks, 1 or more.
    program : str
        Path of a script (or of a folder or zip file that contains ``__main__.py``), or a module's name.
    arguments : sequence of str
        What the program finds in ``sys.argv[1:]``.
    module : bool
        Whether `program` is a module's name, as in ``python -m``.
    label : bool
        Put ``[rank]`` before each line of output.
    tls : Credentials, optional
        What the ranks show each other, if they are to speak TLS over TCP.
    max_restarts : int
        When a rank fails, end the others and start all of them again, this often at most.
    elastic : tuple of int, optional
        When a rank fails, let the others go on if there are at least so many (the first number) together with
        replacements and those that have ended well. As many replacements as `max_restarts` are started, one
        for each rank that fails; they join when the others call `commops.Comm.grow`, up to the second number.

    Returns
    -------
    int
        Of the last start: 0 if all ranks ended well; else the exit code of the rank that failed first, 128 +
        the number of the signal that killed it, or 128 + the number of the signal that the launcher was sent.
        With `elastic`, 0 if the ranks that were left at the end ended well; else of the last failure.

    Raises
    ------
    ValueError
        If `n` is below 1, `max_restarts` below 0, or `n` not within the numbers of `elastic`.
    RuntimeError
        If this process has several threads.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    if max_restarts < 0:
        raise ValueError(f"max_restarts must be 0 or more, not {max_restarts}")
    if elastic and not 1 <= elastic[0] <= n <= elastic[1]:
        raise ValueError(f"n must be within the numbers of elastic, {elastic[0]} to {elastic[1]}, not {n}")
    if not module and (trouble := find_script(program)):
        print(f"commops: {trouble}", file=sys.stderr)
        return 2

    def child(rank: int) -> int:
        (run_module if module else run_script)(program, arguments)
        return 0

    return fork_ranks(n, child, label=label, tls=tls, max_restarts=max_restarts, elastic=elastic).code
