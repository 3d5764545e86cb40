"""Every collective gives NumPy's own answer, on every layout of ranks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .cases import CALLS, DTYPES, Case, difference, make, start
from .layouts import ALL, EVERY, Layout
from .strategies import OPS, cases
from .world import World


@pytest.mark.parametrize("layout", EVERY, ids=str)
def test_a_call_gives_numpys_answer(layout: Layout, worlds: Callable[[Layout], World]) -> None:
    @settings(max_examples=120)
    @given(case=cases(layout.size))
    def check(case: Case) -> None:
        assert difference(case, layout.size, worlds(layout).run(make, case)) is None

    check()
