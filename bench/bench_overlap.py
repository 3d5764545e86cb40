"""How much of an `iallreduce` hides behind a NumPy computation that takes as long: 2 ranks, 1 to 64 MiB.

Measured are the allreduce alone (c), the computation alone (n), and the allreduce with the computation
between call and `wait` (b). Hidden is (c + n - b) / min(c, n): 1 where the shorter one costs nothing, 0 where
the two might as well follow each other. Over shared memory communication is work for a core, so what can be
hidden is a matter of cores, of which 2 are used here:

- ``no core free``: both ranks compute. There are 4 cores' worth of work on 2 of them: 0 is all there is.
- ``half a core each``: rank 0 computes, rank 1 waits. 3 cores' worth of work on 2: 0.5 at best.
- ``a core free``: rank 0 computes on one core, and all threads that communicate, of both ranks, are on the
  other, also where the allreduce is timed alone.
- ``1 Gbit/s``, ``200 Mbit/s``: a rank on each of two hosts, which such a link joins. Both compute. The link
  is emulated by the same 2 cores, and 1 Gbit/s is a fifth of their work. Needs root.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import commops
import hosts
import overlap_rank

_LINKS = {"1 Gbit/s": ("1gbit", 64 << 20), "200 Mbit/s": ("200mbit", 4 << 20)}  # and the largest size
_PROGRAM = str(Path(__file__).with_name("overlap_rank.py"))


class _Setting(NamedTuple):
    computing: int  # ranks
    aside: bool  # communication has a core of its own


_SHARED = {
    "no core free": _Setting(2, False),
    "half a core each": _Setting(1, False),
    "a core free": _Setting(1, True),
}


def measure(quick: bool) -> dict[str, Any]:
    sizes = [1 << 20, 4 << 20] if quick else [1 << 20, 4 << 20, 16 << 20, 64 << 20]
    repeats = 3 if quick else 15
    settings = {
        name: commops.launch(overlap_rank.measure, 2, sizes, repeats, *setting, transport="shm")[0]
        for name, setting in _SHARED.items()
    }
    if os.geteuid() == 0:
        for link, (rate, most) in _LINKS.items():
            some = [size for size in sizes if size <= most]
            with hosts.hosts(2, rate) as names:
                settings[link] = hosts.run(names, [0, 1], _PROGRAM, some, repeats // 3, 2, False)
    return {"rows": [{"setting": name, **row} for name, rows in settings.items() for row in rows]}


def plot(record: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = record["rows"]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    figure = Figure(figsize=(3.2 * len(settings), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for setting, axes in zip(settings, figure.subplots(1, len(settings), sharey=True), strict=True):
        for name in overlap_rank.COMPUTATIONS:
            points = [row for row in rows if (row["setting"], row["computation"]) == (setting, name)]
            sizes = [row["bytes"] / (1 << 20) for row in points]
            axes.semilogx(sizes, [100 * row["hidden"] for row in points], "o-", label=name)
        for level in (0, 80):
            axes.axhline(level, color="0.6", lw=0.8)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.set(title=setting, xlabel="MiB", ylim=(-60, 115))
    figure.axes[0].set_ylabel("% hidden")
    figure.axes[-1].legend(frameon=False, loc="lower right")
    figure.savefig(path)
