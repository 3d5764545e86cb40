"""Calls on objects: arrays of 1 KiB to 64 MiB inside a container, beside mpi4py's and torch's.

mpi4py has two kinds of such calls: the usual ones, which pickle an array's elements with the rest, and those
of `mpi4py.util.pkl5` (``-pkl5``), which leave them beside the pickle, as commops does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import picture
import report
from contest import Setting, compete

_MPI = ("intelmpi", "mpich", "openmpi")
SETTING = Setting(2, "shm", ("commops", *_MPI, *(f"{name}-pkl5" for name in _MPI), "gloo"))
SIZES = tuple((1 << 10) * 4**power for power in range(9))


def measure(quick: bool) -> dict[str, Any]:
    if quick:
        run = compete(SETTING, "objects", rounds=1, sizes=(SIZES[0], SIZES[5]), batches=1, seconds=0.001)
    else:
        run = compete(SETTING, "objects", rounds=5, sizes=SIZES)
    return {"runs": [run | {"summary": report.summary(run["rounds"])}]}


def table(record: dict[str, Any]) -> str:
    return "\n\n".join(report.table(run) for run in record["runs"])


def plot(record: dict[str, Any], path: Path) -> None:
    picture.draw(record, path, "Objects that hold an array", (picture.TIME, picture.BANDWIDTH))
