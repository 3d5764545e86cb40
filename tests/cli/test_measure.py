"""The measuring method, and the tables and pictures of what it finds."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import commops
from commops.cli import chart
from commops.cli.measure import BACK_TO_BACK, OPS, Row, compare, measure

SIZES = [8, 1 << 10, BACK_TO_BACK]


def look(comm: commops.Comm, names: list[str]) -> list[tuple[str, int, bool]]:
    rows = list(measure(comm, names, SIZES, batches=3, seconds=0.0))
    return [(row.op, row.bytes, 0 < row.lowest <= row.microseconds <= row.highest) for row in rows]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_operation_is_measured_at_every_size_alike_on_all_ranks(ranks: int) -> None:
    results = commops.launch(look, ranks, list(OPS))
    ops = [op for op in OPS if op != "pingpong" or ranks > 1]
    expected = [(op, size, True) for op in ops for size in ([0] if op == "barrier" else SIZES)]
    assert results == [expected] * ranks


class Spy:
    """A rank alone that writes down what it is asked."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sent: list[float] = []

    def barrier(self) -> None:
        self.calls.append("barrier")

    def allreduce(self, x: np.ndarray, op: str = "sum", out: np.ndarray | None = None) -> Any:
        self.calls.append("allreduce")
        self.sent.append(float(x[0]))

    def allgather(self, x: np.ndarray, out: np.ndarray) -> Any:
        out[...] = x


def test_small_calls_follow_each_other() -> None:
    spy = Spy()
    (row,) = measure(spy, ["allreduce"], [8], batches=4, seconds=0.0)  # type: ignore[arg-type]
    assert row.calls == 1
    assert Counter(spy.calls) == {"barrier": 6, "allreduce": 2 + 3 + 4}


def test_large_calls_start_at_a_barrier_and_send_new_data() -> None:
    spy = Spy()
    list(measure(spy, ["allreduce"], [BACK_TO_BACK], batches=4, seconds=0.0))  # type: ignore[arg-type]
    assert spy.calls == ["barrier", "allreduce"] * (2 + 3 + 4)
    assert spy.sent[:5] == [0, 1, 0, 1, 2]


def test_communicators_that_are_compared_take_turns() -> None:
    one, other = Spy(), Spy()
    other.calls = one.calls
    other.allreduce = lambda x, op="sum", out=None: one.calls.append("other")  # type: ignore[method-assign]
    comms: list[Any] = [one, other]
    rows = compare(
        comms, "allreduce", 8, batches=4, seconds=0.0, new=[lambda count: np.zeros(count, "f")] * 2
    )
    assert [row.calls for row in rows] == [1, 1]
    calls = [name for name in one.calls if name != "barrier"]
    assert calls[-8:] == ["allreduce", "other"] * 4


def test_arrays_may_be_the_callers_own() -> None:
    made: list[int] = []

    def new(count: int) -> np.ndarray:
        made.append(count)
        return np.zeros(count, np.float32)

    with commops.init() as comm:
        list(measure(comm, ["alltoall"], [8, 64], batches=1, seconds=0.0, new=new))
    assert made == [2, 2, 16, 16]


def rows() -> list[Row]:
    return [
        Row("barrier", 0, 0.25, 0.2, 0.3, 10),
        *(Row(op, size, 2.0, 1.0, 3.0, 10) for op in ("pingpong", "allreduce") for size in (8, 1 << 20)),
        Row("reduce_scatter", 8, 1234.5, 1.0, 3.0, 10),
    ]


def test_bandwidth_counts_both_ways_of_a_pingpong() -> None:
    figures = {(row.op, row.bytes): row.gigabytes_per_second for row in rows()}
    assert figures["allreduce", 1 << 20] == pytest.approx((1 << 20) / 2e-6 / 1e9)
    assert figures["pingpong", 1 << 20] == pytest.approx(2 * (1 << 20) / 2e-6 / 1e9)


def test_tables_hold_all_figures_within_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    full = [Row(op, size, 123456.0, 1.0, 2.0, 1) for op in OPS for size in (8, 64 << 20) if op != "barrier"]
    for table in chart.tables(rows() + full):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert "barrier: 0.250 microseconds" in text
    for words in ("allreduce", "1 MiB", "64 MiB", "2.00", "123456", "1234", "524", "16 KiB on, each call"):
        assert words in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(8, "8 B"), (1 << 10, "1 KiB"), (1500, "1500 B"), (256 << 10, "256 KiB"), (1 << 30, "1 GiB")],
)
def test_sizes_are_written_as_people_do(count: int, text: str) -> None:
    assert chart.short_bytes(count) == text


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    chart.plot(rows(), "title", tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG\r\n")
