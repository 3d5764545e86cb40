"""Latency and bandwidth of the collectives beside those of MPI libraries and gloo.

8 operations × 9 sizes; 2 and 4 ranks over shared memory, 2 over TCP on loopback; the method is that of
`commops.cli.measure`. What the machine gives at most (`limits.py`) takes its turns as the peers do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import picture
import report
from commops.cli.measure import SIZES
from contest import Setting, compete

_SHM = ("commops", "comm.empty", "intelmpi", "mpich", "openmpi", "gloo", "memcpy")
SETTINGS = (
    Setting(2, "shm", _SHM),
    Setting(2, "tcp", ("commops", "openmpi-tcp", "mpich-tcp", "gloo", "raw sockets")),
    Setting(4, "shm", _SHM),
)
TURNS = (
    ("barrier", "pingpong", "allreduce"),
    ("allgather", "reduce_scatter"),
    ("broadcast", "scatter", "alltoall"),
)


def measure(quick: bool) -> dict[str, Any]:
    runs = []
    for setting in SETTINGS[:2] if quick else SETTINGS:
        if quick:
            sizes = (8, 1 << 10, 256 << 10, 4 << 20)
            run = compete(setting, "collectives", rounds=1, sizes=sizes, batches=1, seconds=0.001)
        else:
            run = compete(setting, "collectives", rounds=5, sizes=SIZES, turns=TURNS)
        runs.append(run | {"summary": report.summary(run["rounds"])})
    return {"runs": runs}


def table(record: dict[str, Any]) -> str:
    return "\n\n".join(report.table(run) for run in record["runs"])


def plot(record: dict[str, Any], path: Path) -> None:
    picture.draw(record, path, "Collectives", (picture.TIME, picture.BANDWIDTH))
