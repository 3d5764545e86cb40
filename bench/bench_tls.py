"""What TLS costs: an allreduce of two ranks over TCP, with it and without, in turns.

On one machine, over loopback, both ends of a connection encrypt and decrypt with the cores, and the memory,
that also carry the bytes, and there is no network to wait for: it costs most there. As root, the same between
two hosts that links of 1 and 5 Gbit/s join; these are emulated by the same cores.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import hosts
import picture
import report
from commops.cli.chart import short_bytes
from commops.rendezvous import new_credentials
from contest import Setting, compete

PLAIN, TLS = "commops", "commops, TLS"
SETTING = Setting(2, "tcp", (PLAIN, TLS))
SIZES = (8, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
LINKS = ("1gbit", "5gbit")
_PROGRAM = str(Path(__file__).with_name("hosts_rank.py"))


def measure(quick: bool) -> dict[str, Any]:
    turns = [("allreduce",)]
    if quick:
        run = compete(
            SETTING, "collectives", rounds=1, sizes=(8, 1 << 20), turns=turns, batches=1, seconds=0.001
        )
    else:
        run = compete(SETTING, "collectives", rounds=9, sizes=SIZES, turns=turns)
    return {"runs": [run], "links": {} if quick or os.geteuid() else {rate: _link(rate) for rate in LINKS}}


def _link(rate: str) -> dict[str, dict[str, float]]:
    """Return the median time of each size, with TLS and without, over 5 rounds."""
    found: dict[str, list[dict[str, float]]] = {PLAIN: [], TLS: []}
    with tempfile.NamedTemporaryFile() as file, hosts.hosts(2, rate) as names:
        file.write(new_credentials())
        file.flush()
        for _ in range(5):
            for name, variables in ((PLAIN, {}), (TLS, {"COMMOPS_TLS_FILE": file.name})):
                found[name].append(hosts.run(names, [0, 1], _PROGRAM, SIZES[:8:2], 3, "auto", **variables))
    return {
        size: {name: median(row[size] for row in rows) for name, rows in found.items()}
        for size in found[PLAIN][0]
    }


def table(record: dict[str, Any]) -> str:
    (run,) = record["runs"]
    times, ratios = report.medians(run["rounds"]), report.ratios(run["rounds"], TLS, [PLAIN])
    lines = [f"{'loopback':>12} {'plain':>10} {'TLS':>10} µs {'ratio':>8}"]
    for point, (ratio, _) in ratios.items():
        lines.append(_line(report.split(point)[1], times[PLAIN][point], times[TLS][point], ratio))
    for rate, rows in record["links"].items():
        lines.append(f"{rate:>12}")
        lines += [_line(int(size), row[PLAIN], row[TLS], row[TLS] / row[PLAIN]) for size, row in rows.items()]
    return "\n".join(lines)


def _line(size: int, plain: float, tls: float, ratio: float) -> str:
    return f"{short_bytes(size):>12} {plain:10.1f} {tls:10.1f}    {ratio:8.2f}"


def plot(record: dict[str, Any], path: Path) -> None:
    picture.draw(record, path, "Allreduce over TCP, with TLS and without", (picture.TIME, picture.BANDWIDTH))
