"""Threads of a rank's linear algebra."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from commops.train.threads import limited_threads


def threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info()}


def test_ranks_of_a_host_share_its_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    before = threads()
    with limited_threads(SimpleNamespace(local_size=2 * cores)) as each:  # type: ignore[arg-type]
        assert each == 1
        assert threads() <= {1}
    assert threads() == before


def test_a_lower_limit_is_kept() -> None:
    with threadpool_limits(1), limited_threads(SimpleNamespace(local_size=1)):  # type: ignore[arg-type]
        assert threads() <= {1}
