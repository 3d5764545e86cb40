"""Ranks as children of one process, from their birth to the last trace of them.

The launcher is one warm interpreter, NumPy loaded and no thread started. It forks every rank, serves the
store where they meet, passes on their output, and ends all of them when one fails, when it is told to by a
signal, and when it is killed itself (the kernel does that). It sleeps in one `poll` over everything that can
happen: process descriptors, output pipes, reports of uncaught exceptions, signals.

Ranks stay in the launcher's process group, so that at a terminal Ctrl-C, Ctrl-Z and ``fg`` mean what they
mean for any other program. Descendants of ranks are adopted when their parents end, and killed with the job.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Set
from functools import partial

from commops.launch import process
from commops.launch.elastic import ElasticJob
from commops.launch.job import Job, Outcome
from commops.launch.rank import Lives, Meeting
from commops.launch.signals import SignalQueue, queued
from commops.rendezvous.credentials import Credentials

__all__ = ["Outcome", "fork_ranks"]


def fork_ranks(
    n: int,
    child: Callable[[int], int],
    *,
    label: bool = False,
    speak: bool = True,
    stop: int | None = None,
    tls: Credentials | None = None,
    max_restarts: int = 0,
    elastic: tuple[int, int] | None = None,
) -> Outcome:
    """Run ``child(rank)`` in `n` forks of this process, and return when nothing of them is left.

    Parameters
    ----------
    n : int
        Number of ranks.
    child : callable
        Returns the rank's exit code. What it raises ends the rank as it would end a script. Its process ends
        as an interpreter does, but never returns from this call.
    label : bool
        Put ``[rank]`` before each line of output.
    speak : bool
        Whether to print failures and interruptions to standard error.
    stop : int, optional
        A descriptor (borrowed) that ends all ranks when it becomes readable.
    tls : Credentials, optional
        What ranks and store show each other, if they are to speak TLS.
    max_restarts : int
        How often all ranks are started again, after one of them has failed and the others were ended; where
        the job is elastic, how many replacements are started for ranks that have failed.
    elastic : tuple of int, optional
        How many ranks there must be for the others to go on when one has failed, and may be at most. Every
        replacement that may be started is forked at the beginning, because later the store has a thread, and
        waits.

    Returns
    -------
    Outcome
        Of the last start.

    Raises
    ------
    RuntimeError
        If this process has several threads, which would be broken in the forks.

    Notes
    -----
    Each rank finds ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``,
    ``MASTER_PORT`` (free for the program's own use), ``COMMOPS_RENDEZVOUS``, ``COMMOPS_JOB``,
    ``COMMOPS_TOKEN_FILE``, with TLS ``COMMOPS_TLS`` and ``COMMOPS_TLS_FILE``, unless it was set
    ``OMP_NUM_THREADS``, and how often ranks were started before, as `Lives` has it, in its environment. Rank
    0 reads standard input, the others read nothing. Output goes through the launcher in whole lines; a lone
    rank, and rank 0 at a terminal, write directly, so that progress bars, prompts and debuggers work.
    """
    if threading.current_thread() is not threading.main_thread() or threading.active_count() > 1:
        raise RuntimeError("ranks are forked from a process without threads; commops.launch works from any")
    # All that `commops.init` needs is imported before the forks, so that no rank has to.
    import commops.launch.environment
    import commops.rendezvous.bootstrap
    import commops.rendezvous.prefix_store
    import commops.rendezvous.tcp_store
    import commops.rendezvous.token
    import commops.rendezvous.url

    if tls:
        import commops.rendezvous.tls_socket  # noqa: F401
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # or each rank would print it again
    if threads := process.default_threads(n).get("OMP_NUM_THREADS"):
        process.limit_loaded_blas(int(threads))
    with contextlib.ExitStack() as stack:
        stack.enter_context(process.adopting_orphans())
        spared = process.children()
        restore_limit = stack.enter_context(process.room_for_descriptors(4 * n + 5 * max_restarts + 32))
        signals = stack.enter_context(queued())
        stack.callback(process.kill_children, spared)  # whatever happens below
        gc.freeze()  # or a collection in each rank would copy every page that it touches
        kind: Callable[..., Job] = partial(ElasticJob, elastic) if elastic else Job
        make = partial(kind, n, signals, label, speak, stop)
        for number in itertools.count():
            # The store's thread has ended with the ranks before, so this process may fork again.
            lives = Lives(0 if elastic else number, max_restarts)
            outcome = _start(n, child, make, signals, spared, restore_limit, lives, tls)
            if not outcome.restarts:
                return outcome
    raise AssertionError("a job ends")


def _start(
    n: int,
    child: Callable[[int], int],
    make: Callable[[Meeting], Job],
    signals: SignalQueue,
    spared: Set[int],
    restore_limit: Callable[[], None],
    lives: Lives,
    tls: Credentials | None,
) -> Outcome:
    """Start all ranks, with a job, a token and a store of their own, and see them through."""
    from commops.rendezvous.tcp_store import TCPStore
    from commops.rendezvous.token import new_token

    token = new_token()
    with (
        contextlib.closing(Meeting(n, token, tls.pem if tls else None, lives)) as meeting,
        contextlib.closing(make(meeting)) as job,
    ):
        signals.hold()
        for rank in range(n):
            job.fork(rank, child, restore_limit)
        job.fork_spares(child, restore_limit)
        with TCPStore("127.0.0.1", 0, is_server=True, token=token, timeout=60.0, tls=tls) as store:
            job.opens(store)
            meeting.open_gate(store.address)
            signals.let_through()
            job.watch()
        process.kill_children(spared)
        return job.end()
