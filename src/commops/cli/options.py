"""What several commands have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

__all__ = ["out_option", "ranks_option", "transport_option", "usable_cores"]


def usable_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0))


ranks_option = click.option(
    "-n",
    "--ranks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of ranks; by default as many as there are usable cores.",
)

transport_option = click.option(
    "--transport",
    type=click.Choice(["auto", "shm", "tcp"]),
    default="auto",
    show_default=True,
    help="What carries data: shared memory within a host and TCP between hosts, or one of them.",
)


def out_option(name: str) -> Callable[[Any], Any]:
    """Return the option for the folder of results, of a command whose runs are called `name`."""
    from pathlib import Path

    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help=f"Folder for the results; new, or empty.  [default: runs/{name}-<time>]",
        show_default=False,
    )
