"""Curves of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from commops.train.metrics import Epoch

__all__ = ["plot_accuracy", "plot_loss"]

_TRAIN, _TEST = "#3b6fb6", "#d1602e"


def plot_loss(history: Sequence[Epoch], path: Path) -> None:
    """Draw the losses over the epochs, on a logarithmic scale."""
    train = [row.train_loss for row in history]
    test = [row.test_loss for row in history]
    _plot(path, train, test, label="loss (nats per sample)", logarithmic=True)


def plot_accuracy(history: Sequence[Epoch], path: Path) -> None:
    """Draw the accuracies over the epochs."""
    train = [row.train_accuracy for row in history]
    test = [row.test_accuracy for row in history]
    _plot(path, train, test, label="accuracy", logarithmic=False)


def _plot(
    path: Path, train: Sequence[float], test: Sequence[float], *, label: str, logarithmic: bool
) -> None:
    # A figure without pyplot: it needs no display and leaves the program's own backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, MaxNLocator

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = range(1, len(train) + 1)
    marker = "o" if len(train) < 3 else None
    axes.plot(epochs, train, color=_TRAIN, marker=marker, label=f"training, {train[-1]:.3f} at the end")
    axes.plot(epochs, test, color=_TEST, marker=marker, label=f"held out, {test[-1]:.3f} at the end")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # where decades are too few
    else:
        axes.set_ylim(min(0.3, *train, *test) - 0.02, 1.02)
    axes.grid(True, which="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
