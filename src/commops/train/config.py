"""Settings of the ready-made runs; light to import, so that a command can list them."""

from __future__ import annotations

from dataclasses import dataclass

from commops.train.optimizers import SGD

__all__ = ["IrisConfig"]


@dataclass(frozen=True)
class IrisConfig:
    """Settings of a run.

    Attributes
    ----------
    epochs : int
        Passes over the training samples.
    batch_size : int
        Samples of a step, all ranks together.
    learning_rate, momentum : float
        Of `SGD`.
    held_out : float
        Share of the samples that is not trained on.
    seed : int
        0 or more. Decides the split, the initial weights and the order of the samples.

    Raises
    ------
    ValueError
        If a setting is out of bounds.
    """

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 0.1
    momentum: float = 0.9
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, not {self.epochs}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {self.batch_size}")
        if not 0.0 < self.held_out < 1.0:
            raise ValueError(f"held_out must lie between 0 and 1, not {self.held_out}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be from 0 to {(1 << 32) - 1}, not {self.seed}")
        SGD(self.learning_rate, self.momentum)  # checks its own
