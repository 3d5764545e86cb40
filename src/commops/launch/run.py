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

    Returns
    -------
    int
        Of the last start: 0 if all ranks ended well; else the exit code of the rank that failed first, 128 +
        the number of the signal that killed it, or 128 + the number of the signal that the launcher was sent.

    Raises
    ------
    ValueError
        If `n` is below 1, or `max_restarts` below 0.
    RuntimeError
        If this process has several threads.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    if max_restarts < 0:
        raise ValueError(f"max_restarts must be 0 or more, not {max_restarts}")
    if not module and (trouble := find_script(program)):
        print(f"commops: {trouble}", file=sys.stderr)
        return 2

    def child(rank: int) -> int:
        (run_module if module else run_script)(program, arguments)
        return 0

    return fork_ranks(n, child, label=label, tls=tls, max_restarts=max_restarts).code
