"""How a command becomes several ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from commops.cli.options import usable_cores

__all__ = ["new_folder", "on_ranks"]

T = TypeVar("T")


def new_folder(name: str, out: Path | None) -> Path:
    """Make the folder of a run (see `new_run_folder`), or raise a `click.ClickException`."""
    from commops.train.folder import new_run_folder

    try:
        return new_run_folder(name, out)
    except OSError as error:
        raise click.ClickException(f"cannot write results: {error}") from None


def on_ranks(
    ctx: click.Context, ranks: int | None, prepare: Callable[[], T], body: Callable[[T | None], None]
) -> None:
    """Call ``body(prepare())`` on rank 0 and ``body(None)`` on the others.

    The ranks are forks of this process. In a job that torchrun, srun or mpirun started, this process is one
    of its ranks and forks nothing.

    Parameters
    ----------
    ctx : click.Context
        Of the command; it ends with the exit code of the ranks.
    ranks : int or None
        How many; None for as many as there are usable cores.
    prepare : callable
        Called once, before any rank starts where that can be, so that its errors are not those of a rank.
    body : callable

    Raises
    ------
    click.UsageError
        If `ranks` is given and is not the number of ranks that a launcher started, or its variables make no
        sense.
    """
    from commops.launch.environment import detect

    try:
        place = detect(os.environ)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    if place is not None:
        if ranks not in (None, place.size):
            raise click.UsageError(f"-n {ranks}, but {place.launcher} started {place.size} ranks", ctx)
        body(prepare() if place.rank == 0 else None)
        return
    from commops.launch.supervise import fork_ranks

    prepared = prepare()

    def rank(number: int) -> int:
        body(prepared if number == 0 else None)
        return 0

    ctx.exit(fork_ranks(ranks or usable_cores(), rank).code)
