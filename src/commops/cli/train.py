"""``commops train``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

from commops.cli.options import out_option, ranks_option
from commops.cli.ranks import new_folder, on_ranks
from commops.train.config import IrisConfig
from commops.train.metrics import Epoch

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
@out_option("iris")
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
    from commops.train.extras import MissingExtraError, require

    try:
        require()
        config = IrisConfig(epochs, batch_size, learning_rate, momentum, held_out, seed)
        from commops.train.iris import load_split

        load_split(config)  # checks it, and imports what ranks would otherwise import once each
    except MissingExtraError as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    on_ranks(ctx, ranks, lambda: new_folder("iris", out), lambda folder: _train_iris(config, folder))


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
            write = stack.enter_context(report.write_metrics(folder, asdict(config) | {"ranks": comm.size}))
            show = stack.enter_context(report.progress("iris", config.epochs, sys.stderr))

            def on_epoch(row: Epoch) -> None:
                write(row)
                show(row)

            result = train(comm, config, on_epoch)
    report.write_plots(folder, result.history)
    report.print_summary("iris", result.summary, folder, sys.stdout)
