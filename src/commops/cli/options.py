"""What several commands have in common."""

from __future__ import annotations

import os

import click

__all__ = ["ranks_option", "usable_cores"]


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
