"""Run benchmarks: all of them, or those named. Results go to bench/results as JSON and PNG.

    python bench/run.py                  # all
    python bench/run.py collectives      # one
    python bench/run.py --quick          # a short look, not fit to be quoted

A benchmark is a file bench_<name>.py here with two functions: ``measure(quick: bool) -> dict`` returns
something that JSON can hold, and ``plot(record: dict, path: Path) -> None`` draws it.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import click

from commops.cli.machine import machine

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Return the benchmarks there are."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


@click.command(help=__doc__.split("\n")[0])
@click.argument("chosen", nargs=-1, type=click.Choice(names()), metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="A short look.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=HERE / "results",
    help="Folder for the results.",
)
def main(chosen: tuple[str, ...], quick: bool, out: Path) -> None:
    sys.path.insert(0, str(HERE))
    out.mkdir(parents=True, exist_ok=True)
    for name in chosen or names():
        bench = importlib.import_module(f"bench_{name}")
        begin = time.monotonic()
        record = {"machine": machine(), "quick": quick, **bench.measure(quick)}
        (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        bench.plot(record, out / f"{name}.png")
        click.echo(f"{name}: {time.monotonic() - begin:.0f} s, results in {out}/{name}.json and .png")


if __name__ == "__main__":
    main()
