"""``commops bench``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .conftest import Run

QUICK = ("--seconds", "0", "--max-bytes", "16384")


@pytest.mark.parametrize("options", [(), ("--transport", "tcp"), ("--shared",)], ids=" ".join)
def test_figures_come_as_table_json_and_picture(
    commops: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    result = commops(
        "bench", "-n", "2", *QUICK, "--ops", "barrier,allreduce,scatter", "--out", "out", *options
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    sizes = [8, 64, 1 << 10, 16 << 10]
    assert [(row["op"], row["bytes"]) for row in record["rows"]] == [
        ("barrier", 0), *(("allreduce", size) for size in sizes), *(("scatter", size) for size in sizes)
    ]  # fmt: skip
    assert all(row["microseconds"] > 0 for row in record["rows"])
    assert record["settings"]["ranks"] == 2
    assert record["settings"]["shared"] is ("--shared" in options)
    assert record["machine"]["usable_cores"] == len(os.sched_getaffinity(0))
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG\r\n")
    for words in ("barrier: ", "allreduce", "scatter", "16 KiB", "GB/s", "bench.json and bench.png in out"):
        assert words in result.stdout


def test_without_sizes_there_is_nothing_to_draw(commops: Run, tmp_path: Path) -> None:
    result = commops("bench", "-n", "1", "--seconds", "0", "--ops", "barrier")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert os.listdir(folder) == ["bench.json"]


def test_no_number_of_seconds_is_a_wrong_argument(commops: Run) -> None:
    result = commops("bench", "--seconds", "nan")
    assert result.returncode == 2
    assert "nan is no number of seconds" in result.stderr
    assert "Traceback" not in result.stderr
