from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .layouts import FEW, Layout
from .world import TIMEOUT, Nursery, World


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def worlds(nursery: Nursery) -> Iterator[Callable[[Layout], World]]:
    """Give the world of a layout, started once for all tests; a new one if the last test broke it."""
    made: dict[Layout, World] = {}

    def world(layout: Layout) -> World:
        if layout in made and made[layout].broken:
            made.pop(layout).close()
        if layout not in made:
            made[layout] = nursery.world(layout)
        return made[layout]

    yield world
    for each in made.values():
        each.close()


@pytest.fixture
def fresh(nursery: Nursery) -> Iterator[Callable[..., World]]:
    """Make worlds that one test may break."""
    made: list[World] = []

    def world(layout: Layout, *, timeout: float = TIMEOUT) -> World:
        made.append(nursery.world(layout, timeout=timeout))
        return made[-1]

    yield world
    for each in made:
        each.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of ranks on a few layouts, if it does not say on which itself."""
    chosen = any(mark.args[0] == "layout" for mark in metafunc.definition.iter_markers("parametrize"))
    if "layout" in metafunc.fixturenames and not chosen:
        metafunc.parametrize("layout", FEW, ids=str)


@pytest.fixture
def world(layout: Layout, worlds: Callable[[Layout], World]) -> World:
    return worlds(layout)
