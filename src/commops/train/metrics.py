"""What is measured about a run: one row an epoch, and a summary at the end."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Epoch", "Summary"]


@dataclass(frozen=True)
class Epoch:
    """An epoch, as all ranks together saw it.

    Attributes
    ----------
    epoch : int
        From 1.
    train_loss, test_loss : float
        Mean over the training and the held-out samples, after the epoch; nats for a cross-entropy.
    train_accuracy, test_accuracy : float
        Shares of samples, 0 to 1.
    seconds : float
        Training alone, without this evaluation; the mean over ranks.
    samples_per_second : float
        Training samples of all ranks by those seconds.
    communication_share : float
        Part of those seconds spent in allreduce, waiting for slower ranks included; 0 to 1.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    samples_per_second: float
    communication_share: float


@dataclass(frozen=True)
class Summary:
    """A whole run.

    Attributes
    ----------
    ranks, epochs, train_samples, test_samples : int
    train_loss, train_accuracy, test_loss, test_accuracy : float
        After the last epoch, as in `Epoch`.
    seconds, samples_per_second, communication_share : float
        As in `Epoch`, over all epochs.
    """

    ranks: int
    epochs: int
    train_samples: int
    test_samples: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    samples_per_second: float
    communication_share: float

    @classmethod
    def of(cls, history: list[Epoch], *, ranks: int, train_samples: int, test_samples: int) -> Summary:
        """Sum up one or more epochs of the same training samples."""
        last, seconds = history[-1], sum(row.seconds for row in history)
        waited = sum(row.seconds * row.communication_share for row in history)
        return cls(
            ranks=ranks,
            epochs=len(history),
            train_samples=train_samples,
            test_samples=test_samples,
            train_loss=last.train_loss,
            train_accuracy=last.train_accuracy,
            test_loss=last.test_loss,
            test_accuracy=last.test_accuracy,
            seconds=seconds,
            samples_per_second=len(history) * train_samples / seconds,
            communication_share=waited / seconds,
        )
