from __future__ import annotations

from collections.abc import Iterator

import pytest

import commops


@pytest.fixture(scope="session")
def alone() -> Iterator[commops.Comm]:
    """A communicator of one rank."""
    with commops.init() as comm:
        yield comm
