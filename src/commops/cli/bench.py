"""``commops bench``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from commops.cli.options import out_option, ranks_option, transport_option
from commops.cli.ranks import new_folder, on_ranks

if TYPE_CHECKING:
    from commops import Comm
    from commops.cli.measure import Row

__all__ = ["command"]


def _read_ops(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    from commops.cli.measure import OPS

    ops = tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text is not None else tuple(OPS)
    for name in ops:
        if name not in OPS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(OPS)}", ctx, option)
    return ops


def _read_seconds(ctx: click.Context, option: click.Parameter, seconds: float) -> float:
    if math.isnan(seconds):  # which no comparison with the limits of the range finds
        raise click.BadParameter("nan is no number of seconds", ctx, option)
    return seconds


@click.command()
@ranks_option
@transport_option
@click.option("--ops", metavar="OP,…", callback=_read_ops, help="Operations to measure; by default all.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=8),
    default=16 << 20,
    show_default=True,
    help="Largest message. Memory in use is about this, times two, times the square of the ranks.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0, max=3600.0),
    callback=_read_seconds,
    default=0.2,
    show_default=True,
    help="Time for each figure.",
)
@click.option("--shared", is_flag=True, help="Use arrays from comm.zeros(), which other ranks can address.")
@click.option("--tune", is_flag=True, help="Write a table of what is fastest here, for later runs.")
@out_option("bench")
@click.pass_context
def command(
    ctx: click.Context,
    ranks: int | None,
    transport: str,
    ops: tuple[str, ...],
    max_bytes: int,
    seconds: float,
    shared: bool,
    tune: bool,
    out: Path | None,
) -> None:
    """Measure latency and bandwidth of collectives on this machine.

    Writes bench.json and bench.png. Sizes are what one rank contributes; for scatter, alltoall and
    reduce_scatter, one block of it. The slowest rank counts, and the median of nine batches. From 16 KiB,
    every call sends freshly written data.

    With --tune: measures tunables instead, with so many ranks (by default the number of cores, and twice
    that), in a minute or two. Later runs on this machine use what is found; `commops doctor` shows it.
    """
    if tune:
        _tune(ctx, ranks, transport, seconds, max_bytes)
        return

    def body(results: Path | None) -> None:
        import commops

        with commops.init(transport=transport) as comm:
            rows = _measure(comm, ops, max_bytes, seconds, shared, speak=results is not None)
            settings = {
                "ranks": comm.size,
                "transport": transport,
                "shared": shared,
                "hosts": len(set(comm.hosts)),
            }
        if results is not None:
            _report(rows, settings, results)

    on_ranks(ctx, ranks, lambda: new_folder("bench", out), body)


def _tune(ctx: click.Context, ranks: int | None, transport: str, seconds: float, max_bytes: int) -> None:
    from commops.cli.tune import tune

    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if astray := given & {"ops", "shared", "out"}:
        raise click.UsageError(f"--{min(astray)} does not go with --tune", ctx)
    tune(ctx, ranks, transport, seconds, max_bytes if "max_bytes" in given else sys.maxsize)


def _measure(
    comm: Comm, ops: Sequence[str], max_bytes: int, seconds: float, shared: bool, *, speak: bool
) -> list[Row]:
    import numpy as np

    from commops.cli.measure import SIZES, measure

    sizes = [size for size in SIZES if size <= max_bytes]
    new: Callable[[int], Any] | None = (lambda count: comm.zeros(count, np.float32)) if shared else None
    rows = measure(comm, ops, sizes, seconds=seconds, new=new)
    if not speak:
        return list(rows)
    from rich.console import Console
    from rich.progress import track

    total = sum(1 if op == "barrier" else len(sizes) for op in ops)
    console = Console(stderr=True)
    return list(
        track(rows, "measuring", total, console=console, disable=not console.is_terminal, transient=True)
    )


def _report(rows: list[Row], settings: dict[str, Any], folder: Path) -> None:
    from rich.console import Console

    from commops.cli import chart
    from commops.cli.machine import machine

    record = {"machine": machine(), "settings": settings, "rows": [row._asdict() for row in rows]}
    (folder / "bench.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    title = f"{settings['ranks']} ranks, transport {settings['transport']}"
    console = Console(file=sys.stdout)
    for part in chart.tables(rows):
        console.print(part, highlight=False)
    drawn = "bench.json"
    if any(row.bytes for row in rows):
        try:
            chart.plot(rows, f"commops: {title}", folder / "bench.png")
            drawn += " and bench.png"
        except ImportError as error:
            click.echo(f"commops: no picture: {error}; run  pip install 'commops[bench]'", err=True)
    console.print(f"{title}; {drawn} in {folder}", soft_wrap=True, highlight=False, markup=False)
