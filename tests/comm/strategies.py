"""Examples of collective calls for hypothesis."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from commops._core import native

from .cases import BLOCKED, CALLS, DTYPES, FORMS, FUNCTIONS, OUTS, REDUCING, ROOTED, Case

OPS = {
    name: [op for op, number in native.OPS.items() if native.reducible(native.DTYPES.index(name), number)]
    for name in DTYPES
}
_small = st.lists(st.integers(0, 6), max_size=3).map(tuple)
_long = st.integers(0, 3000).map(lambda n: (n,))


def examples(share: int) -> settings:
    """Look at so many of 100 examples that the profile has."""
    return settings(max_examples=share * settings.default.max_examples // 100)


@st.composite
def cases(draw: st.DrawFn, size: int, calls: tuple[str, ...] = CALLS) -> Case:
    """Draw a call of `size` ranks."""
    call = draw(st.sampled_from(calls))
    dtype = draw(st.sampled_from(list(DTYPES)))
    op = "sum"
    shape = draw(st.one_of(_small, _long))
    if call in REDUCING:
        op = draw(st.sampled_from([*OPS[dtype], *FUNCTIONS]))
    if op == "product":  # of wrapping integers: exactly associative
        dtype = draw(st.sampled_from(["int64", "uint16"]))
        n = draw(st.integers(1, 7)) if call != "reduce_scatter" else size
        shape = (n, n)
    rows, counted, flat = _blocks(draw, call, size, op) if call in BLOCKED else ((), False, False)
    if call in BLOCKED:
        shape = (n,) if op == "product" else shape[:2] if len(shape) != 1 else (shape[0] // 8,)
    return Case(
        call=call,
        dtype=dtype,
        op=op,
        root=draw(st.integers(0, size - 1)) if call in ROOTED else 0,
        shape=() if flat else shape,
        rows=rows,
        counted=counted,
        flat=flat,
        form=draw(st.sampled_from(FORMS)),
        out=draw(st.sampled_from(OUTS)),
        blocking=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def _blocks(draw: st.DrawFn, call: str, size: int, op: str) -> tuple[tuple[tuple[int, ...], ...], bool, bool]:
    """Draw how axis 0 is cut."""
    if op == "product":
        return ((1,) * size,) * size, draw(st.booleans()), False
    if not draw(st.booleans()):
        n = draw(st.integers(0, 5))
        flat = call in ("gather", "allgather") and n == 1 and draw(st.booleans())
        return ((n,) * size,) * size, False, flat
    line = st.lists(st.integers(0, 5), min_size=size, max_size=size).map(tuple)
    if call == "alltoall":
        return tuple(draw(st.lists(line, min_size=size, max_size=size))), True, False
    return (draw(line),) * size, True, False
