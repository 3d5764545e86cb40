"""Allreduce between hosts: 2 and 4 network namespaces joined by links of 1 Gbit/s, 2 ranks in each.

Compared with the time that the least possible bytes need on a link, 2·(h − 1)/h of the array for h hosts, and
with one flat ring over all n ranks (``transport="tcp"``). A flat ring that follows the hosts crosses each
link once in each direction, one whose neighbours are always on other hosts twice: both are measured. A
crossing takes 2·(n − 1)/n of the array, so their bytes alone make such rings 1.5 and 3 times as slow with
2 hosts, 1.17 and 2.33 times with 4. Arrays of less than 1 MiB depend on steps, on the 128 KiB that a link
takes at once, and on chance.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hosts

_RATE = 1e9  # bits a second
_FRAME = (
    1514 / 1448
)  # bytes on a link for a byte of TCP payload: Ethernet, IP and TCP headers with time stamps
_RANKS = 2  # on each host
_PROGRAM = str(Path(__file__).with_name("hosts_rank.py"))
_PLACEMENTS = {
    "by host": lambda count: [number // _RANKS for number in range(_RANKS * count)],
    "in turn": lambda count: [number % count for number in range(_RANKS * count)],
}


def _link_microseconds(count: int, size: int) -> float:
    return 2 * (count - 1) / count * size * _FRAME * 8 / _RATE * 1e6


def _flat_bytes(count: int, placement: str) -> float:
    """Return what a flat ring sends over a link, in the bytes that are needed."""
    ranks, crossings = count * _RANKS, {"by host": 1, "in turn": _RANKS}[placement]
    return crossings * (ranks - 1) / ranks * count / (count - 1)


def measure(quick: bool) -> dict[str, Any]:
    if os.geteuid() != 0:
        raise PermissionError("network namespaces need root")
    sizes = [1 << 20, 4 << 20] if quick else [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20]
    batches = 3 if quick else 7
    rows = []
    for count in (2, 4):
        with hosts.hosts(count, f"{_RATE:.0f}bit") as names:
            for placement, place in _PLACEMENTS.items():
                # The two alternate.
                own, flat = (
                    hosts.run(names, place(count), _PROGRAM, sizes, batches, transport)
                    for transport in ("auto", "tcp")
                )
                rows += [
                    {
                        "hosts": count,
                        "placement": placement,
                        "bytes": size,
                        "microseconds": own[str(size)],
                        "flat_ring_by_bytes": _flat_bytes(count, placement),
                        "flat_ring": flat[str(size)] / own[str(size)],
                        "link": own[str(size)] / _link_microseconds(count, size),
                    }
                    for size in sizes
                ]
    return {"rows": rows}


def plot(record: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for count in (2, 4):
        for placement in _PLACEMENTS:
            rows = [row for row in record["rows"] if (row["hosts"], row["placement"]) == (count, placement)]
            sizes = [row["bytes"] for row in rows]
            left.semilogx(sizes, [row["link"] for row in rows], "o-", label=f"{count} hosts, {placement}")
            (line,) = right.semilogx(sizes, [row["flat_ring"] for row in rows], "o-")
            right.axhline(rows[0]["flat_ring_by_bytes"], color=line.get_color(), lw=0.8, ls="--")
    left.axhline(1.0, color="0.6", lw=0.8)
    left.set(title="time / time of the bytes on the link", xlabel="bytes", ylim=(0, None))
    right.set(title="time of one flat ring / time; dashed: by its bytes", xlabel="bytes", ylim=(0, None))
    left.legend(frameon=False)
    figure.savefig(path)
