"""Faults are injected for real, into processes, at any instant; afterwards nothing of them may remain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from comm.conftest import nursery
from comm.layouts import Layout
from comm.world import TIMEOUT, Nursery, World

__all__ = ["fresh", "nursery"]


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
def fresh(nursery: Nursery) -> Iterator[Callable[..., World]]:
    """Make worlds that one test may break, and see that nothing of them is left."""
    made: list[World] = []
    before = remains(nursery)

    def world(layout: Layout, *, timeout: float = TIMEOUT) -> World:
        made.append(nursery.world(layout, timeout=timeout))
        return made[-1]

    yield world
    for each in made:
        each.close()
    assert remains(nursery) == before
