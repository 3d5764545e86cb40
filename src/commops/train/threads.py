"""How many threads a rank's linear algebra may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commops.comm import Comm

__all__ = ["limited_threads"]


@contextlib.contextmanager
def limited_threads(comm: Comm) -> Iterator[int]:
    """Share the host's usable cores among its ranks.

    In each rank, a BLAS takes every core that it sees, and ranks then wait for each other's threads. A limit
    that is lower already is kept. Where threadpoolctl is not installed nothing is changed; `commops run` sets
    ``OMP_NUM_THREADS`` in any case.

    Yields
    ------
    int
        Threads that a rank may use.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // comm.local_size)
    try:
        from threadpoolctl import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            threadpool_info,
            threadpool_limits,
        )
    except ImportError:
        yield threads
        return
    with threadpool_limits({pool["prefix"]: min(threads, pool["num_threads"]) for pool in threadpool_info()}):
        yield threads
