"""Pictures of a contest: a panel for each operation, a line for each contender, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peers
from commops.cli.chart import short_bytes
from report import medians, point, split

__all__ = ["BANDWIDTH", "TIME", "Quantity", "draw"]


class Quantity(NamedTuple):
    """What is drawn over the size.

    Attributes
    ----------
    name : str
        Of the vertical axis.
    value : callable
        From an operation, its bytes and its microseconds.
    suffix : str
        Of the file's name.
    """

    name: str
    value: Callable[[str, int, float], float]
    suffix: str = ""


TIME = Quantity("microseconds", lambda op, size, microseconds: microseconds)
BANDWIDTH = Quantity(
    "GB/s",
    lambda op, size, microseconds: size * (2 if op.startswith("pingpong") else 1) / microseconds / 1e3,
    "-bandwidth",
)

# commops in red, limits dashed, each library in one colour whatever the way it is started.
_RED = "#d1122b"
_COLOURS = {"intelmpi": "#1f77b4", "mpich": "#2ca02c", "openmpi": "#ff9f1c", "gloo": "#9467bd"}


def _style(name: str) -> dict[str, Any]:
    if name == "commops":
        return {"color": _RED, "lw": 2.4, "zorder": 5, "marker": "o", "ms": 3.5}
    if name == "commops, TLS":
        return {"color": "#1f77b4", "lw": 1.8, "zorder": 4, "marker": "s", "ms": 3.0}
    if name == "comm.empty":
        return {"color": _RED, "lw": 1.3, "zorder": 4, "ls": "-."}
    if name in peers.LIMITS:
        return {"color": "0.15", "lw": 1.3, "zorder": 3, "ls": "--"}
    library, _, way = name.partition("-")
    return {"color": _COLOURS[library], "lw": 1.4, "ls": ":" if way == "pkl5" else "-"}


def draw(record: dict[str, Any], path: Path, what: str, quantities: Sequence[Quantity]) -> None:
    """Draw each run of a record into files beside `path`, named after the setting and the quantity.

    Parameters
    ----------
    record : dict
        ``machine``, ``quick``, and ``runs`` of `contest.compete`.
    path : Path
        ``folder/collectives.png`` becomes ``folder/collectives-shm2.png``, and so on.
    what : str
        What has been measured.
    quantities : sequence of Quantity
    """
    machine = record["machine"]
    where = f"{machine['processor']}, {machine['usable_cores']} cores"
    for run in record["runs"]:
        ranks, transport = run["setting"]["ranks"], run["setting"]["transport"]
        over = {"shm": "shared memory", "tcp": "TCP on loopback"}[transport]
        rounds = "a quick look" if record["quick"] else f"rounds: {len(run['rounds'])}"
        for quantity in quantities:
            figure = _figure(medians(run["rounds"]), quantity, f"{where}; {rounds}")
            figure.suptitle(f"{what}: {ranks} ranks, {over}", fontsize=12)
            figure.savefig(path.with_stem(f"{path.stem}-{transport}{ranks}{quantity.suffix}"))


def _figure(times: dict[str, dict[str, float]], quantity: Quantity, caption: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    points = [split(name) for name in times["commops"]]
    ops = list(dict.fromkeys(op for op, size in points if size))
    bars = [op for op, size in points if not size] if quantity is TIME else []
    columns = min(4, len(ops) + len(bars))
    rows = -(-(len(ops) + len(bars)) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 6.4), 2.7 * rows + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for op, axes in zip(ops, panels, strict=False):
        sizes = [size for other, size in points if other == op]
        for name, found in times.items():
            line = [
                (size, quantity.value(op, size, found[point(op, size)]))
                for size in sizes
                if point(op, size) in found
            ]
            if line:
                axes.plot(*zip(*line, strict=True), **_style(name))
        axes.set_title(op, fontsize=10)
        _scales(axes, sizes)
    for op, axes in zip(bars, panels[len(ops) :], strict=False):
        _bars(axes, {name: found[point(op, 0)] for name, found in times.items() if point(op, 0) in found})
        axes.set_title(f"{op}, {quantity.name}", fontsize=10)
    for axes in panels[len(ops) + len(bars) :]:
        axes.axis("off")
    for axes in panels[: len(ops) : columns]:
        axes.set_ylabel(quantity.name)
    handles = [Line2D([], [], label=name, **_style(name)) for name in times]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(len(handles), 1),
        frameon=False,
        fontsize=9,
        title=caption,
        title_fontsize=8,
    )
    return figure


def _scales(axes: Any, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 100 * low:  # some labels also within a decade
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(sizes, [short_bytes(size) for size in sizes], rotation=45, ha="right", fontsize=7)
    axes.minorticks_off()
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Any, values: dict[str, float]) -> None:
    names = list(reversed(values))
    bars = axes.barh(names, [values[name] for name in names], color=[_style(name)["color"] for name in names])
    axes.bar_label(bars, [f"{values[name]:.3g}" for name in names], fontsize=8, padding=2)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.xaxis.set_visible(False)  # the figures stand at the bars
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
