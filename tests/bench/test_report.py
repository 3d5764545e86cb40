"""What is made of the times that contenders took."""

from __future__ import annotations

from typing import Any

import pytest

import report

# The limits and commops' own other row are faster than any peer, and must not count as one.
TIMES = {
    "commops": {"barrier 0": 1.0, "allreduce 8": 2.0, "allreduce 1048576": 300.0},
    "comm.empty": {"allreduce 8": 0.1, "allreduce 1048576": 0.1},
    "intelmpi": {"barrier 0": 4.0, "allreduce 8": 8.0, "allreduce 1048576": 200.0},
    "gloo": {"barrier 0": 2.0, "allreduce 8": 9.0},
    "memcpy": {"allreduce 8": 0.1, "allreduce 1048576": 240.0},
}


def run(times: dict[str, dict[str, float]], **left_out: str) -> dict[str, Any]:
    return {
        "setting": {"ranks": 2, "transport": "shm"},
        "left_out": left_out,
        "rounds": [times] * 5,
    }


def test_ratios_are_those_to_the_fastest_peer_of_each_point() -> None:
    assert report.ratios([TIMES]) == {
        "barrier 0": (0.5, "gloo"),
        "allreduce 8": (0.25, "intelmpi"),
        "allreduce 1048576": (1.5, "intelmpi"),
    }
    assert report.ratios([TIMES], "comm.empty") == {
        "allreduce 8": (0.1 / 8, "intelmpi"),
        "allreduce 1048576": (0.1 / 200, "intelmpi"),
    }


def test_ratios_are_taken_within_a_round() -> None:
    """The machine is ten times as slow in some of them, and not yet so when the first had its turn."""
    slow = {name: {point: 10 * time for point, time in rows.items()} for name, rows in TIMES.items()}
    change = slow | {"commops": TIMES["commops"]}
    assert report.ratios([TIMES, change, slow, slow, TIMES]) == report.ratios([TIMES])
    assert report.medians([TIMES, slow, slow]) == slow


def test_rounds_in_which_a_contender_has_no_time_do_not_count() -> None:
    without = {"commops": {"barrier 0": 9.0}, "gloo": {}}
    assert report.ratios([TIMES, without, without]) == report.ratios([TIMES])
    assert report.medians([TIMES, without])["gloo"] == TIMES["gloo"]


def test_a_point_that_no_other_has_is_left_out() -> None:
    assert report.ratios([TIMES], others=["memcpy"]) == {
        "allreduce 8": (20.0, "memcpy"),
        "allreduce 1048576": (1.25, "memcpy"),
    }
    assert report.ratios([TIMES], others=["raw sockets"]) == {}


def test_half_and_double_cancel_out() -> None:
    assert report.geometric_mean([2.0, 0.5, 1.0]) == pytest.approx(1.0)
    assert report.geometric_mean([0.5, 0.125]) == pytest.approx(0.25)


def test_summary_says_where_which_peer_is_ahead() -> None:
    found = report.summary([TIMES])
    assert found["commops"]["geometric_mean"] == pytest.approx((0.5 * 0.25 * 1.5) ** (1 / 3))
    assert found["commops"]["points"] == 3
    assert found["commops"]["behind"] == {"allreduce 1048576": {"peer": "intelmpi", "ratio": 1.5}}
    assert found["comm.empty"]["behind"] == {}
    assert report.summary([{"commops": TIMES["commops"], "memcpy": TIMES["memcpy"]}]) == {}


def test_table_shows_times_ratios_limits_and_who_is_absent() -> None:
    lines = report.table(run(TIMES, mpich="cannot be installed: no network")).splitlines()
    rows = {line.rsplit("  ", 1)[0].split("  ")[0].strip(): line for line in lines}
    assert rows["allreduce 8 B"].split()[3:] == ["2.00", "0.100", "8.00", "9.00", "0.100", "0.25"]
    assert rows["allreduce 1 MiB"].split()[3:] == ["300", "0.100", "200", "240", "1.50", "<"]
    assert rows["barrier"].split()[1:] == ["1.00", "4.00", "2.00", "0.50"]
    assert "commops / best peer: geometric mean 0.57 of 3 points; a peer is ahead at 1:" in lines
    assert "    allreduce 1 MiB (intelmpi, 1.50)" in lines
    assert rows["commops / memcpy"].split()[3:] == ["8", "B", "1", "MiB"]
    assert rows["allreduce"].split()[1:] == ["20.00", "1.25"]
    assert "left out: mpich: cannot be installed: no network" in lines


def test_table_without_peers_has_times_alone() -> None:
    text = report.table(run({"commops": TIMES["commops"]}))
    assert text.splitlines()[-1].split() == ["allreduce", "1", "MiB", "300"]
    assert "ratio" not in text
    assert "peer" not in text


def test_a_rate_is_shown_instead_of_a_time_and_the_ratio_stays_one_of_times() -> None:
    times = {"commops": {"messages 8": 32.0}, "openmpi": {"messages 8": 64.0}}
    last = report.table(run(times), "thousand messages a second", per=64e3).splitlines()[2]
    assert last.split() == ["messages", "8", "B", "2000", "1000", "0.50"]
