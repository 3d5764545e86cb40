"""Every collective gives NumPy's own answer, on every layout of ranks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commops import Comm

from .cases import BLOCKED, CALLS, DTYPES, REDUCING, SHAPED, Array, Case, difference, make, start
from .layouts import ALL, EVERY, FEW, SMALL, Layout
from .strategies import OPS, cases, examples
from .world import World


@pytest.mark.parametrize("layout", EVERY, ids=str)
def test_a_call_gives_numpys_answer(layout: Layout, worlds: Callable[[Layout], World]) -> None:
    @examples(120)
    @given(case=cases(layout.size))
    def check(case: Case) -> None:
        assert difference(case, layout.size, worlds(layout).run(make, case)) is None

    check()


def together(comm: Comm, some: list[Case]) -> list[tuple[Array | None, bool]]:
    return [make(comm, case) for case in some]


def check_all(world: World, some: list[Case]) -> None:
    for case, results in zip(some, zip(*world.run(together, some), strict=True), strict=True):
        assert difference(case, world.size, list(results)) is None, case


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_reduction_of_every_dtype(world: World, dtype: str) -> None:
    size = world.size
    check_all(
        world,
        [
            Case(call, dtype, op, root=1, shape=(37,), rows=((1, 4, 2),) * size, counted=True, seed=seed)
            for call in REDUCING
            for seed, op in enumerate(OPS[dtype])
        ],
    )


@pytest.mark.parametrize("layout", ALL, ids=str)
@pytest.mark.parametrize("nbytes", [8 << 10, 100 << 10, 1 << 20])
def test_arrays_from_small_to_large(world: World, nbytes: int) -> None:
    """Past every threshold at which another algorithm takes over."""
    size = world.size
    n = nbytes // 8 // size
    rows = ((n + 1, *(n for _ in range(size - 1))),) * size
    check_all(
        world,
        [
            Case(
                call,
                "float64",
                "sum",
                size - 1,
                (n * size,) if call in SHAPED else (),
                rows,
                True,
                blocking=blocking,
            )
            for call in CALLS
            for blocking in (True, False)
        ],
    )


def test_blocks_of_rows_without_elements_have_their_rows(world: World) -> None:
    size = world.size
    rows = (tuple((2 * rank + 3) % 5 for rank in range(size)),) * size
    check_all(
        world,
        [
            Case(call, root=size - 1, shape=shape, rows=rows, counted=True, out=out, blocking=blocking)
            for call in BLOCKED
            for shape in ((0,), (3, 0), (0, 2))
            for out in ("none", "C")
            for blocking in (True, False)
        ],
    )


def finish_in_order(comm: Comm, some: list[Case], order: list[int]) -> list[tuple[Array | None, bool]]:
    ends = [start(comm, case) for case in some]
    results = {number: ends[number]() for number in order}
    return [results[number] for number in range(len(some))]


@pytest.mark.parametrize("layout", [*FEW, Layout("aabb", settings=SMALL)], ids=str)
def test_calls_in_progress_do_not_mix(layout: Layout, worlds: Callable[[Layout], World]) -> None:
    """Blocking calls, and others that are waited for in any order."""

    @examples(30)
    @given(data=st.data(), some=st.lists(cases(layout.size), min_size=2, max_size=12))
    def check(data: st.DataObject, some: list[Case]) -> None:
        order = data.draw(st.permutations(range(len(some))))
        ends = worlds(layout).run(finish_in_order, some, order)
        for case, results in zip(some, zip(*ends, strict=True), strict=True):
            assert difference(case, layout.size, list(results)) is None, case

    check()
