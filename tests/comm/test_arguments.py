"""What is checked of arrays on this rank alone, without any other rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commops.arguments import ANY, counts_of, receiver_of, source_of, tag_of, target_of

from .cases import Array

_axes = st.lists(st.tuples(st.integers(-12, 12), st.integers(0, 5)), max_size=4)


def strided(axes: list[tuple[int, int]], itemsize: int) -> Array:
    """Return an array with these strides in bytes and lengths, somewhere in memory that is large enough."""
    reach = sum(abs(stride) * n for stride, n in axes) + itemsize
    memory = np.zeros(2 * reach, np.uint8)[reach : reach + itemsize].view(f"u{itemsize}")
    strides, shape = [s for s, _ in axes], [n for _, n in axes]
    return np.lib.stride_tricks.as_strided(memory, (1, *shape), (itemsize, *strides))[0, ...]


@given(_axes, st.sampled_from([1, 2, 4, 8]))
def test_out_may_not_overlap_itself(axes: list[tuple[int, int]], itemsize: int) -> None:
    array = strided(axes, itemsize)
    starts = [sum(i * s for i, (s, _) in zip(index, axes, strict=True)) for index in np.ndindex(array.shape)]
    touched = [start + byte for start in starts for byte in range(itemsize)]
    if len(set(touched)) == len(touched):
        assert receiver_of(array) is array
    else:
        with pytest.raises(ValueError, match="out must not overlap itself"):
            receiver_of(array)


def test_views_of_an_array_do_not_overlap_themselves() -> None:
    base = np.zeros((6, 5, 4))
    for view in (
        base,
        base.T,
        base[::-2, 1:, ::3],
        base.transpose(1, 2, 0)[:, ::-1],
        base[:, :0],
        base[2, 3, 1:2],
        base[0, 0, 0, ...],
        np.einsum("iij->ij", base[:4, :4]),
        np.asfortranarray(base)[1:],
        np.zeros(6, complex).real,
    ):
        assert receiver_of(view) is view


def test_an_axis_that_repeats_is_found_at_once() -> None:
    """However long it is: nothing of that size is made."""
    huge = np.lib.stride_tricks.as_strided(np.zeros(2), (2, 2**55), (8, 0))
    with pytest.raises(ValueError, match="out must not overlap itself"):
        receiver_of(huge)


@pytest.mark.parametrize("counts", [[1, 0, 2], (1, 0, 2), np.array([1, 0, 2], np.int8), [np.uint16(1), 0, 2]])
def test_counts_are_any_sequence_of_whole_numbers(counts: Any) -> None:
    rows = counts_of(counts, 3)
    assert rows is not None
    assert rows.dtype == np.uint64
    assert rows.tolist() == [1, 0, 2]


def test_counts_go_up_to_the_longest_array() -> None:
    assert counts_of([2**63 - 1, 0], 2) is not None
    with pytest.raises(ValueError, match="counts add up to more rows than an array can have"):
        counts_of([2**63 - 1, 1], 2)


def test_any_is_a_source_and_a_tag_of_receives_alone() -> None:
    assert source_of(ANY, 3) == ANY
    assert tag_of(ANY, receives=True) == ANY
    with pytest.raises(ValueError, match="tag must be from 0"):
        tag_of(ANY, receives=False)


@given(st.integers(0, 12), st.integers(0, 12), st.booleans(), st.sampled_from([1, 2, -1]))
def test_a_result_is_written_where_x_is_only_if_they_are_the_same(
    at: int, length: int, in_place: bool, step: int
) -> None:
    memory = np.arange(40.0)
    x, out = memory[12 : 12 + length], memory[at : at + length * abs(step)][::step]
    target, finish = target_of(out, x.shape, x.dtype, x, in_place=in_place)
    before = x.copy()
    target[...] = -1.0
    same = in_place and step > 0 and at == 12
    assert np.array_equal(x, before) or (same and target is out)
    assert finish(None) is out
    assert (out == -1.0).all()
