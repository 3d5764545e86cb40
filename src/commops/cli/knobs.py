"""What ``commops bench --tune`` turns, where that matters, and which value its figures speak for.

A threshold divides sizes into two ways of doing a call. So its two ends are measured, and whichever value it
has, each size takes the time of one of them. Sizes lie between the values, so that each is on one side. Any
other tunable is measured at each of its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KNOBS", "Choice", "Knob", "Point", "choose"]

MARGIN = 0.95  # of the default's time; another value must do with less to be chosen

_KIB, _MIB = 1 << 10, 1 << 20
_BLOCKWISE = ("allgather", "alltoall", "reduce_scatter", "scatter")


class Point(NamedTuple):
    """A call that is measured.

    Attributes
    ----------
    op : str
        A key of `commops.cli.measure.OPS`.
    size : int
        What the tunable is compared with.
    bytes : int
        What `commops.cli.measure` takes.
    """

    op: str
    size: int
    bytes: int


class Knob(NamedTuple):
    """A tunable, and how it is measured.

    Attributes
    ----------
    name : str
    ops : tuple of str
    sizes : tuple of int
    values : tuple of int
        In rising order. The default is one more, where it is none of them.
    threshold : bool
        Whether it divides sizes: those below the value go one way, all others another.
    bytes : callable
        ``bytes(op, size, ranks)`` of a `Point`.
    shared : bool
        Whether arrays are those of ``comm.zeros``.
    """

    name: str
    ops: tuple[str, ...]
    sizes: tuple[int, ...]
    values: tuple[int, ...]
    threshold: bool
    bytes: Callable[[str, int, int], int]
    shared: bool = False

    def points(self, ranks: int, max_bytes: int) -> list[Point]:
        """Return what is measured with so many ranks, calls of more than `max_bytes` left out."""
        points = [Point(op, size, self.bytes(op, size, ranks)) for op in self.ops for size in self.sizes]
        return [point for point in points if point.bytes <= max_bytes]

    def candidates(self, default: int) -> list[int]:
        """Return the values among which there is a choice."""
        return sorted({*self.values, default})

    def measured(self, default: int) -> list[int]:
        """Return the values that are measured."""
        return [self.values[0], self.values[-1]] if self.threshold else self.candidates(default)

    def stand_in(self, value: int, point: Point) -> int:
        """Return the measured value whose time at that point is that of `value`."""
        return self.values[-1 if point.size < value else 0] if self.threshold else value


def _contribution(op: str, size: int, ranks: int) -> int:
    return size


def _whole_array(op: str, size: int, ranks: int) -> int:
    """Have the larger array of a rank measure `size`."""
    return _lines(size / ranks if op in _BLOCKWISE else size)


def _results(op: str, size: int, ranks: int) -> int:
    """Have results that are `size` bytes for the ranks together."""
    return _lines(size / ranks / (ranks if op in _BLOCKWISE else 1))


def _scattered(op: str, size: int, ranks: int) -> int:
    """Have a scatter's array, times half the ranks, be `size` bytes."""
    return _lines(2 * size / ranks**2)


def _lines(count: float) -> int:
    return max(int(count) // 64, 1) * 64


def _doubled(first: int, last: int) -> tuple[int, ...]:
    found = [first]
    while found[-1] < last:
        found.append(2 * found[-1])
    return tuple(found)


def _between(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(value * 3 // 2 for value in values[:-1])


def _threshold(
    name: str,
    ops: tuple[str, ...],
    values: tuple[int, ...],
    size: Callable[[str, int, int], int] = _contribution,
    *,
    shared: bool = False,
) -> Knob:
    return Knob(name, ops, _between(values), values, threshold=True, bytes=size, shared=shared)


# Of each transport, in the order in which they are settled: later ones are measured with those before.
KNOBS = {
    "shm": (
        _threshold("staged_bytes", ("allreduce",), _doubled(2 * _KIB, 128 * _KIB)),
        _threshold("eager_bytes", ("pingpong",), _doubled(16 * _KIB, 512 * _KIB)),
        _threshold("direct_bytes", ("allreduce", "allgather"), _doubled(8 * _KIB, 512 * _KIB), shared=True),
        Knob(
            "stream_bytes",
            ("broadcast", "scatter"),
            (256 * _KIB, _MIB, 4 * _MIB),
            _doubled(16 * _KIB, 256 * _KIB),
            threshold=False,
            bytes=_whole_array,
        ),
        Knob(
            "round_bytes",
            ("allreduce", "allgather", "alltoall", "reduce_scatter"),
            (512 * _KIB, 2 * _MIB, 8 * _MIB),
            _doubled(64 * _KIB, 512 * _KIB),
            threshold=False,
            bytes=_whole_array,
        ),
        _threshold(
            "around_bytes",
            ("allreduce", "allgather", "broadcast", "alltoall"),
            _doubled(_MIB, 128 * _MIB),
            _results,
        ),
        _threshold("attach_bytes", ("scatter",), _doubled(_MIB, 64 * _MIB), _scattered),
    ),
    "tcp": (
        _threshold("doubling_bytes", ("allreduce", "allgather"), _doubled(4 * _KIB, 512 * _KIB)),
        _threshold("eager_bytes", ("pingpong",), _doubled(16 * _KIB, 512 * _KIB)),
        Knob(
            "segment_bytes",
            ("allreduce",),
            (_MIB, 4 * _MIB, 16 * _MIB),
            _doubled(16 * _KIB, 512 * _KIB),
            threshold=False,
            bytes=_contribution,
        ),
    ),
}


class Choice(NamedTuple):
    """What the figures say of a tunable.

    Attributes
    ----------
    knob : Knob
    default, value : int
        `value` is the one that was chosen.
    ratios : dict
        Of each candidate: its time by that of the default, the geometric mean over the points where they
        differ.
    """

    knob: Knob
    default: int
    value: int
    ratios: dict[int, float]


def choose(knob: Knob, default: int, points: Sequence[Point], times: NDArray[np.float64]) -> Choice:
    """Choose a value: that of least time over all points, or the default if it does not clearly beat that.

    It must beat the default in each round, and by the margin in their median. Of several values that are as
    good but for a margin at one point, the nearest to the default is taken.

    Parameters
    ----------
    knob : Knob
    default : int
    points : sequence of Point
    times : array
        Of shape (rounds, points, ``knob.measured(default)``). Only times of one round are compared with each
        other.
    """
    place = {value: number for number, value in enumerate(knob.measured(default))}
    logs = np.log(times)
    totals, ratios = {default: 0.0}, {default: 1.0}
    for value in knob.candidates(default):
        pairs = [(place[knob.stand_in(value, p)], place[knob.stand_in(default, p)]) for p in points]
        differences = [
            logs[:, i, one] - logs[:, i, other] for i, (one, other) in enumerate(pairs) if one != other
        ]
        if not differences:
            continue
        costs = np.array(differences)  # of shape (points that differ, rounds)
        medians = np.median(costs, axis=1)
        ratios[value] = float(np.exp(medians.mean()))
        if ratios[value] < MARGIN and (costs.mean(axis=0) < 0).all():
            totals[value] = float(medians.sum())
    least = min(totals.values())
    good = [value for value in totals if totals[value] <= least - math.log(MARGIN)]
    nearest = min(good, key=lambda value: (abs(math.log(value / default)), value))
    return Choice(knob, default, nearest, dict(sorted(ratios.items())))
