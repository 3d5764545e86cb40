"""Which value of a tunable the figures speak for."""

from __future__ import annotations

import numpy as np
import pytest

from commops import tuned
from commops.cli.knobs import KNOBS, Knob, Point, choose
from commops.cli.measure import OPS

KIB = 1 << 10
ALL = [knob for knobs in KNOBS.values() for knob in knobs]
DEFAULTS = {row.name: row.default for row in tuned.tunables({})}

THRESHOLD = Knob("t", ("allreduce",), (6, 12, 24), (4, 8, 16, 32), True, lambda op, size, ranks: size)
LEVEL = Knob("l", ("allreduce",), (6, 12), (4, 8, 16), False, lambda op, size, ranks: size)


@pytest.mark.parametrize("knob", ALL, ids=lambda knob: knob.name)
@pytest.mark.parametrize("ranks", [2, 3, 64])
def test_every_knob_is_measured_with_calls_that_there_are(knob: Knob, ranks: int) -> None:
    assert knob.name in DEFAULTS
    assert knob.name not in tuned.OWN
    assert DEFAULTS[knob.name] in knob.values  # among its like, so that there is a choice in both directions
    assert list(knob.values) == sorted(set(knob.values))
    points = knob.points(ranks, 1 << 62)
    assert len(points) == len(knob.ops) * len(knob.sizes)
    for point in points:
        assert point.op in OPS
        assert point.bytes % 4 == 0
        assert point.bytes > 0


@pytest.mark.parametrize("knob", [knob for knob in ALL if knob.threshold], ids=lambda knob: knob.name)
def test_the_ends_of_a_threshold_have_every_size_on_either_side(knob: Knob) -> None:
    first, last = knob.measured(DEFAULTS[knob.name])
    for point in knob.points(2, 1 << 62):
        assert knob.stand_in(first, point) == first
        assert knob.stand_in(last, point) == last


def test_calls_that_are_too_large_are_left_out() -> None:
    assert [point.bytes for point in THRESHOLD.points(2, 12)] == [6, 12]


def test_results_of_all_ranks_are_of_the_size_that_counts() -> None:
    (around,) = (knob for knob in ALL if knob.name == "around_bytes")
    for point in around.points(3, 1 << 62):
        result = {"allgather": 3 * point.bytes, "alltoall": 3 * point.bytes}.get(point.op, point.bytes)
        assert 3 * result == pytest.approx(point.size, rel=1e-3)


def points(knob: Knob) -> list[Point]:
    return knob.points(2, 1 << 62)


def test_a_threshold_goes_where_one_way_begins_to_be_faster() -> None:
    # Below the threshold 10, 10 and 10 microseconds, above it 20, 5 and 5.
    times = np.array([[[20.0, 10.0], [5.0, 10.0], [5.0, 10.0]]] * 3)
    choice = choose(THRESHOLD, 32, points(THRESHOLD), times)
    assert choice.value == 8
    assert choice.ratios == pytest.approx({4: (2 / 4) ** (1 / 3), 8: 0.5, 16: 0.5, 32: 1.0})


def test_a_threshold_goes_no_further_than_pays() -> None:
    times = np.array([[[99.0, 100.0], [50.0, 100.0], [99.0, 100.0]]] * 3)
    assert choose(THRESHOLD, 32, points(THRESHOLD), times).value == 8


def test_one_round_that_says_otherwise_is_enough_to_stay() -> None:
    times = np.array([[[10.0, 100.0]] * 3, [[10.0, 100.0]] * 3, [[101.0, 100.0]] * 3])
    choice = choose(THRESHOLD, 16, points(THRESHOLD), times)
    assert choice.value == 16
    assert choice.ratios[8] == pytest.approx(0.1)


def test_a_default_stays_that_others_do_not_clearly_beat() -> None:
    times = np.array([[[96.0, 100.0], [96.0, 100.0], [96.0, 100.0]]] * 3)
    choice = choose(THRESHOLD, 16, points(THRESHOLD), times)
    assert choice.value == 16
    assert choice.ratios[8] == pytest.approx(0.96)


def test_the_median_of_the_rounds_counts() -> None:
    usual, odd = [[10.0, 9.6, 9.0]] * 2, [[10.0, 1.0, 9.9]] * 2
    times = np.array([usual, odd, usual])
    choice = choose(LEVEL, 4, points(LEVEL), times)
    assert choice.value == 16
    assert choice.ratios == pytest.approx({4: 1.0, 8: 0.96, 16: 0.9})


def test_rounds_are_compared_with_themselves_alone() -> None:
    times = np.array([[[10.0, 9.0, 11.0]] * 2, [[100.0, 90.0, 110.0]] * 2, [[1.0, 0.9, 1.1]] * 2])
    choice = choose(LEVEL, 4, points(LEVEL), times)
    assert choice.value == 8
    assert choice.ratios == pytest.approx({4: 1.0, 8: 0.9, 16: 1.1})


def test_a_default_that_is_none_of_the_values_is_measured_too() -> None:
    assert LEVEL.measured(10) == [4, 8, 10, 16]
    times = np.array([[[10.0, 10.0, 9.0, 10.0]] * 2])
    assert choose(LEVEL, 10, points(LEVEL), times).value == 10
