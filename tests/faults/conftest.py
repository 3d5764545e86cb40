"""Faults are injected for real, into processes, at any instant; afterwards nothing of them may remain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from comm.conftest import fresh as worlds_of_a_test
from comm.conftest import nursery
from comm.world import Nursery, World

__all__ = ["fresh", "nursery", "worlds_of_a_test"]


def remains(nursery: Nursery) -> dict[str, object]:
    """Tell what these tests could leave here: processes and descriptors.

    Ports, mappings and names of sockets are their processes' and go with them.
    """
    return {"processes": nursery.ranks(), "descriptors": len(os.listdir("/proc/self/fd"))}


def files_in_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


@pytest.fixture
def nothing_remains(nursery: Nursery) -> Iterator[None]:
    before, files = remains(nursery), files_in_memory()
    yield
    assert remains(nursery) == before
    deadline = time.monotonic() + 5  # other tests, beside these, may have some for a moment
    while files_in_memory() - files and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files_in_memory() <= files


@pytest.fixture
def fresh(nothing_remains: None, worlds_of_a_test: Callable[..., World]) -> Callable[..., World]:
    """Make worlds that one test may break, and of which nothing may remain when they are closed."""
    return worlds_of_a_test
