"""Faults are injected for real, into processes, at any instant; afterwards nothing of them may remain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from comm.conftest import fresh as worlds_of_a_test
from comm.conftest import nursery
from comm.world import Nursery, World

__all__ = ["fresh", "nursery", "worlds_of_a_test"]


def remains(nursery: Nursery) -> dict[str, object]:
    """Tell what these tests could leave: processes, descriptors here, files in memory.

    Ports, mappings and names of sockets are their processes' and go with them.
    """
    return {
        "processes": nursery.ranks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shared memory": sorted(os.listdir("/dev/shm")),
    }


@pytest.fixture
def nothing_remains(nursery: Nursery) -> Iterator[None]:
    before = remains(nursery)
    yield
    assert remains(nursery) == before


@pytest.fixture
def fresh(nothing_remains: None, worlds_of_a_test: Callable[..., World]) -> Callable[..., World]:
    """Make worlds that one test may break, and of which nothing may remain when they are closed."""
    return worlds_of_a_test
