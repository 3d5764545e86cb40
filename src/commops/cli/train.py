"""``commops train``."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from commops.cli.options import ranks_option, usable_cores
from commops.train.config import IrisConfig

__all__ = ["command"]


@click.group()
def command() -> None:
    """Train a network on several ranks, each learning from its share of every batch."""


@command.command(context_settings={"show_default": True})
@ranks_option
@click.option("--epochs", default=IrisConfig.epochs, help="Passes over the training samples.")
@click.option("--batch-size", default=IrisConfig.batch_size, help="Samples of a step, all ranks together.")
@click.option("--learning-rate", default=IrisConfig.learning_rate, help="Of the gradient descent.")
@click.option("--momentum", default=IrisConfig.momentum, help="Of the gradient descent.")
@click.option("--held-out", default=IrisConfig.held_out, help="Share of the samples that is not trained on.")
@click.option("--seed", default=IrisConfig.seed, help="Of the split, the weights, and the order of samples.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results; new, or empty.  [default: runs/iris-<time>]",
    show_default=False,
)
@click.pass_context
def iris(
    ctx: click.Context,
    ranks: int | None,
    out: Path | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    held_out: float,
    seed: int,
) -> None:
    """Train a 4-30-20-3 network on the iris flowers.

    Writes config.json, metrics.jsonl, loss.png and accuracy.png. Under torchrun, srun or mpirun, this process
    is one of the ranks.
    """
    from commops.launch.environment import detect
    from commops.train.extras import MissingExtraError, require

    try:
        require()
        config = IrisConfig(epochs, batch_size, learning_rate, momentum, held_out, seed)
        place = detect(os.environ)
    except MissingExtraError as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    if place is not None:
        if ranks not in (None, place.size):
            raise click.UsageError(f"-n {ranks}, but {place.launcher} started {place.size} ranks", ctx)
        _train_iris(config, _new_folder(out) if place.rank == 0 else None)
        return
    from commops.launch.supervise import fork_ranks

    folder = _new_folder(out)

    def rank(number: int) -> int:
        _train_iris(config, folder if number == 0 else None)
        return 0

    ctx.exit(fork_ranks(ranks or usable_cores(), rank).code)


def _new_folder(out: Path | None) -> Path:
    from commops.train.report import new_run_folder

    try:
        return new_run_folder("iris", out)
    except OSError as error:
        raise click.ClickException(f"cannot write results: {error}") from None


def _train_iris(config: IrisConfig, folder: Path | None) -> None:
    """Train as one rank; the one with a folder reports."""
    import commops
    from commops.train.iris import train

    with commops.init() as comm:
        if folder is None:
            train(comm, config)
            return
        from commops.train import report

        with ExitStack() as stack:
            observers = (
                stack.enter_context(report.write_metrics(folder, asdict(config) | {"ranks": comm.size})),
                stack.enter_context(report.progress("iris", config.epochs, sys.stderr)),
            )
            result = train(comm, config, lambda row: [observe(row) for observe in observers])
    report.write_plots(folder, result.history)
    report.print_summary("iris", result.summary, folder, sys.stdout)
