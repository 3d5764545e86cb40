"""What TLS costs: an allreduce of two ranks over TCP on loopback, with it and without, in turns.

On one machine both ends of a connection encrypt and decrypt with the cores, and the memory, that also carry
the bytes, and there is no network to wait for: it costs more here than between hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import picture
import report
from commops.cli.chart import short_bytes
from contest import Setting, compete

PLAIN, TLS = "commops", "commops, TLS"
SETTING = Setting(2, "tcp", (PLAIN, TLS))
SIZES = (8, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)


def measure(quick: bool) -> dict[str, Any]:
    turns = [("allreduce",)]
    if quick:
        run = compete(
            SETTING, "collectives", rounds=1, sizes=(8, 1 << 20), turns=turns, batches=1, seconds=0.001
        )
    else:
        run = compete(SETTING, "collectives", rounds=9, sizes=SIZES, turns=turns)
    return {"runs": [run]}


def table(record: dict[str, Any]) -> str:
    (run,) = record["runs"]
    times, ratios = report.medians(run["rounds"]), report.ratios(run["rounds"], TLS, [PLAIN])
    lines = [f"{'allreduce':>12} {'plain':>10} {'TLS':>10} µs {'ratio':>8}"]
    for point, (ratio, _) in ratios.items():
        size = short_bytes(report.split(point)[1])
        lines.append(f"{size:>12} {times[PLAIN][point]:10.1f} {times[TLS][point]:10.1f}    {ratio:8.2f}")
    return "\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    picture.draw(record, path, "Allreduce over TCP, with TLS and without", (picture.TIME, picture.BANDWIDTH))
