"""How many messages a rank can send another in a second: windows of 64, all under way together.

The record has the times of a window and the short message that answers it; tables and pictures show the rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import picture
import report
from contest import Setting, compete

_WINDOW = 64  # as in cases.py, which needs what contenders load
SETTINGS = (
    Setting(2, "shm", ("commops", "intelmpi", "mpich", "openmpi", "gloo")),
    Setting(2, "tcp", ("commops", "openmpi-tcp", "mpich-tcp", "gloo")),
)
SIZES = (8, 64, 512, 4 << 10, 16 << 10, 64 << 10)
_RATE = picture.Quantity(
    "thousand messages a second", lambda op, size, microseconds: 1e3 * _WINDOW / microseconds
)


def measure(quick: bool) -> dict[str, Any]:
    runs = []
    for setting in SETTINGS:
        if quick:
            run = compete(setting, "messages", rounds=1, sizes=(8, 4 << 10), batches=1, seconds=0.001)
        else:
            run = compete(setting, "messages", rounds=5, sizes=SIZES)
        runs.append(run | {"summary": report.summary(run["rounds"])})
    return {"runs": runs}


def table(record: dict[str, Any]) -> str:
    return "\n\n".join(
        report.table(run, "thousand messages a second", 1e3 * _WINDOW) for run in record["runs"]
    )


def plot(record: dict[str, Any], path: Path) -> None:
    picture.draw(record, path, "Messages from one rank to another", (_RATE,))
