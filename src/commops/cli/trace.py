"""``commops trace``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from commops.flight import Recorder

__all__ = ["command"]


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False), default="trace.json", show_default=True, help="The file."
)
@click.option("--job", metavar="JOB", default="", help="Only the job whose name begins so.")
def command(folders: tuple[str, ...], out: str, job: str) -> None:
    """Write the calls of all ranks as Chrome-trace JSON, for Perfetto (ui.perfetto.dev) or chrome://tracing.

    Of the ranks that run on this machine: their last calls (COMMOPS_FLIGHT says how many). Or of those that
    have ended and saved theirs into FOLDERS: those of a job that runs with COMMOPS_TRACE=FOLDER do, and they
    time every call exactly. The ranks of several machines come together by naming the folders of all of them.
    All are put on one clock.
    """
    from commops.trace import chrome

    recorders, now = _saved(folders, job) if folders else _running(job)
    trace = chrome(recorders, now)
    Path(out).write_text(json.dumps(trace))
    calls = sum(len(r.calls) for r in recorders)
    click.echo(
        f"{calls} calls of {len(recorders)} ranks are in {out}, for ui.perfetto.dev or chrome://tracing"
    )


def _running(job: str) -> tuple[list[Recorder], int]:
    from commops.cli.top import chosen

    ranks = chosen(job)
    return _one_job([rank.recorder for rank in ranks]), max(rank.read for rank in ranks)


def _saved(folders: tuple[str, ...], job: str) -> tuple[list[Recorder], None]:
    from commops import flight

    try:
        found = [r for r in flight.load(folders) if r.job.startswith(job)]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if not found:
        raise click.ClickException(f"no rank of a job {job}… has saved its calls in {', '.join(folders)}")
    return _one_job(found), None


def _one_job(recorders: list[Recorder]) -> list[Recorder]:
    jobs = sorted({r.job for r in recorders})
    if len(jobs) > 1:
        raise click.ClickException(
            f"there are several jobs: choose one with --job: {', '.join(j[:12] for j in jobs)}"
        )
    return sorted(recorders, key=lambda r: (r.rank, r.created))
