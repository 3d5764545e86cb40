"""Measurements as tables and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from commops.cli.measure import BACK_TO_BACK, Row

__all__ = ["plot", "short_bytes", "tables"]


_METHOD = "from 16 KiB on, each call sends data just written and is timed by itself"


def short_bytes(count: int) -> str:
    """Write a number of bytes in the greatest binary unit that divides it: ``256 KiB``."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale and count % scale == 0:
            return f"{count // scale} {unit}"
    return f"{count} B"


def _three_digits(value: float) -> str:
    if value < 0.01:
        return "<0.01"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def tables(rows: Sequence[Row]) -> list[Table | str]:
    """Return what to print: headings, a table of microseconds and one of GB/s, a line for what has no size.

    Tables have a line for each size and a column for each operation.
    """
    sized = [row for row in rows if row.bytes]
    found: list[Table | str] = []
    if sized:
        found += [
            "microseconds a call (pingpong: a round trip)",
            _table(sized, lambda row: _three_digits(row.microseconds)),
            "GB/s of what one rank contributes (pingpong: both ways)",
            _table(sized, lambda row: _three_digits(row.gigabytes_per_second)),
        ]
    if any(row.bytes < BACK_TO_BACK for row in sized) and any(row.bytes >= BACK_TO_BACK for row in sized):
        found.append(f"{_METHOD[0].upper()}{_METHOD[1:]}.")
    found += [f"{row.op}: {_three_digits(row.microseconds)} microseconds" for row in rows if not row.bytes]
    return found


def _table(rows: Sequence[Row], show: Callable[[Row], str]) -> Table:
    # Eight columns into 80 characters.
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("bytes", justify="right", style="bold", no_wrap=True)
    ops = list(dict.fromkeys(row.op for row in rows))
    for op in ops:
        table.add_column(op.replace("_", "\n"), justify="right", no_wrap=True)
    for size in sorted({row.bytes for row in rows}):
        cells = {row.op: show(row) for row in rows if row.bytes == size}
        table.add_row(short_bytes(size), *(cells.get(op, "") for op in ops))
    return table


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw latency and bandwidth over the size, a line for each operation, as a PNG.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("microseconds a call", lambda row: row.microseconds),
        ("GB/s", lambda row: row.gigabytes_per_second),
    )
    ops = list(dict.fromkeys(row.op for row in rows if row.bytes))
    sizes = sorted({row.bytes for row in rows if row.bytes})
    for axes, (label, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, op in enumerate(ops):
            line = [(row.bytes, value(row)) for row in rows if row.op == op]
            axes.plot(
                *zip(*line, strict=True), marker="o", markersize=3, color=colormaps["tab10"](number), label=op
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # some labels also within a decade
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("bytes")
        axes.set_ylabel(label)
        axes.set_xticks(sizes, [short_bytes(size) for size in sizes], rotation=45, ha="right", fontsize=8)
        axes.minorticks_off()
        if sizes[0] < BACK_TO_BACK <= sizes[-1]:
            axes.axvline(BACK_TO_BACK / 2, color="0.6", linestyle=":", linewidth=1)
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    if sizes[0] < BACK_TO_BACK <= sizes[-1]:
        figure.supxlabel(f"dotted: {_METHOD}", fontsize=8, color="0.4")
    figure.savefig(path)
