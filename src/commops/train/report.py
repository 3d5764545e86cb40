"""What a run shows while it goes on and leaves behind: progress, files, a table."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from commops.train.metrics import Epoch, Summary
from commops.train.plots import plot_accuracy, plot_loss

__all__ = ["print_summary", "progress", "write_metrics", "write_plots"]

_PLAIN_LINES = 10  # of progress, where no terminal shows a bar


@contextlib.contextmanager
def write_metrics(folder: Path, config: Mapping[str, Any]) -> Iterator[Callable[[Epoch], None]]:
    """Write ``config.json`` at once, and give a function that adds an epoch to ``metrics.jsonl``.

    Each line is complete when the function returns, so a run can be watched, and one that is cut short has
    left all it knew.
    """
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:

        def add(row: Epoch) -> None:
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()

        yield add


def write_plots(folder: Path, history: list[Epoch]) -> None:
    """Write ``loss.png`` and ``accuracy.png``."""
    plot_loss(history, folder / "loss.png")
    plot_accuracy(history, folder / "accuracy.png")


@contextlib.contextmanager
def progress(name: str, epochs: int, stream: TextIO) -> Iterator[Callable[[Epoch], None]]:
    """Show how far a run is: a bar on a terminal, about ten lines elsewhere.

    Yields
    ------
    callable
        To be called after every epoch.
    """
    console = Console(file=stream)
    if not console.is_terminal:
        yield lambda row: _print_line(row, name, epochs, stream)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]}  held-out accuracy {task.fields[accuracy]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=epochs, loss="–", accuracy="–")
        yield lambda row: bar.update(
            task, completed=row.epoch, loss=f"{row.train_loss:.4f}", accuracy=f"{row.test_accuracy:.3f}"
        )


def _print_line(row: Epoch, name: str, epochs: int, stream: TextIO) -> None:
    every = -(-epochs // _PLAIN_LINES)
    if row.epoch % every == 0 or row.epoch == epochs:
        print(
            f"{name}: epoch {row.epoch}/{epochs}, loss {row.train_loss:.4f},"
            f" held-out accuracy {row.test_accuracy:.3f}, {row.samples_per_second:.0f} samples/s",
            file=stream,
            flush=True,
        )


def print_summary(name: str, summary: Summary, folder: Path, stream: TextIO) -> None:
    """Print the final table of a run."""
    table = Table(title=f"{name}, {summary.ranks} rank{'s' if summary.ranks > 1 else ''}", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right", overflow="fold")
    rows = {
        "epochs": f"{summary.epochs}",
        "samples, training / held out": f"{summary.train_samples} / {summary.test_samples}",
        "loss, training / held out": f"{summary.train_loss:.4f} / {summary.test_loss:.4f}",
        "accuracy, training": f"{summary.train_accuracy:.3f}",
        "accuracy, held out": f"{summary.test_accuracy:.3f}",
        "training time": f"{summary.seconds:.2f} s",
        "samples per second": f"{summary.samples_per_second:,.0f}",
        "time in communication": f"{summary.communication_share:.1%}",
        "results": str(folder),
    }
    for label, value in rows.items():
        table.add_row(label, value)
    Console(file=stream).print(table)
