"""Latency and bandwidth of the collectives: 8 operations, 9 sizes, over shared memory and TCP, 2 ranks and 4.

The method is that of `commops.cli.measure`, which `commops bench` uses too.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import commops
from commops.cli import chart
from commops.cli.measure import SIZES, Row
from commops.cli.measure import measure as measure_all

SETTINGS = ((2, "shm"), (2, "tcp"), (4, "shm"))


def _measure(comm: commops.Comm, sizes: list[int], batches: int, seconds: float) -> list[dict[str, Any]]:
    return [asdict(row) for row in measure_all(comm, sizes=sizes, batches=batches, seconds=seconds)]


def measure(quick: bool) -> dict[str, Any]:
    sizes = [size for size in SIZES if size <= (1 << 20 if quick else SIZES[-1])]
    batches, seconds = (3, 0.03) if quick else (9, 0.3)
    runs = []
    for ranks, transport in SETTINGS:
        results = commops.launch(_measure, ranks, sizes, batches, seconds, transport=transport)
        runs.append({"ranks": ranks, "transport": transport, "rows": results[0]})
    return {"runs": runs}


def plot(record: dict[str, Any], path: Path) -> None:
    for run in record["runs"]:
        title = f"commops, {run['ranks']} ranks, {run['transport']}"
        rows = [Row(**row) for row in run["rows"]]
        first = run is record["runs"][0]
        named = path if first else path.with_stem(f"{path.stem}_{run['transport']}_{run['ranks']}")
        chart.plot(rows, title, named)
