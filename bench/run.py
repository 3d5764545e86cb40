"""Run benchmarks: all of them, or those named. Prints tables; results go to bench/results as JSON and PNG.

    python bench/run.py                         # all
    python bench/run.py collectives             # one
    python bench/run.py --quick                 # a short look, not fit to be quoted
    python bench/run.py --peers openmpi,gloo    # beside these libraries alone, and any others left out

A benchmark is a file bench_<name>.py here. ``measure(quick: bool) -> dict`` returns something that JSON can
hold, ``plot(record: dict, path: Path) -> None`` draws it, and ``table(record: dict) -> str``, where there is
one, is printed. A PermissionError of `measure` says that this user may not run it. Peers are downloaded into
.build/peers, once; torch is large, less so from an index that has it for CPUs alone (PIP_EXTRA_INDEX_URL).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path

import click

from commops.cli.machine import machine

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import peers  # noqa: E402


def names() -> list[str]:
    """Return the benchmarks there are."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def _libraries() -> list[str]:
    return list(dict.fromkeys(peer.environment for peer in peers.PEERS.values() if peer.environment))


def _read_peers(ctx: click.Context, option: click.Parameter, text: str | None) -> None:
    if text is None:
        return
    wanted = [name for name in text.split(",") if name]
    if unknown := set(wanted) - set(_libraries()):
        raise click.BadParameter(f"{unknown.pop()!r} is none of {', '.join(_libraries())}", ctx, option)
    peers.only(wanted)


@click.command(help=__doc__.split("\n")[0])
@click.argument("chosen", nargs=-1, type=click.Choice(names()), metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="A short look.")
@click.option(
    "--peers",
    metavar="NAME,…",
    callback=_read_peers,
    expose_value=False,
    help=f"Measure beside these alone: {', '.join(_libraries())}, or none for an empty name.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=HERE / "results",
    help="Folder for the results.",
)
def main(chosen: tuple[str, ...], quick: bool, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in chosen or names() if not _run(name, quick, out)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _run(name: str, quick: bool, out: Path) -> bool:
    """Run one benchmark; return whether it came to its end, so that the others run all the same."""
    bench = importlib.import_module(f"bench_{name}")
    begin = time.monotonic()
    try:
        record = {"machine": machine(), "quick": quick, **bench.measure(quick)}
        (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if hasattr(bench, "table"):
            click.echo(bench.table(record))
        bench.plot(record, out / f"{name}.png")
    except PermissionError as error:
        click.echo(f"{name}: skipped: {error}\n")
    except Exception:
        traceback.print_exc()
        return False
    else:
        click.echo(f"{name}: {time.monotonic() - begin:.0f} s, results in {out}\n")
    return True


if __name__ == "__main__":
    main()
