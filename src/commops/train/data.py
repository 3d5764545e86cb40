"""Splitting data: held out or trained on, global batches, and each rank's share of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batches", "Split", "share", "standardised_split"]


@dataclass(frozen=True)
class Split:
    """Samples to learn from, and samples that only judge.

    Attributes
    ----------
    x_train, x_test : array, shape (samples, features)
    y_train, y_test : array, shape (samples, classes)
        One-hot.
    """

    x_train: NDArray[np.float64]
    y_train: NDArray[np.float64]
    x_test: NDArray[np.float64]
    y_test: NDArray[np.float64]


def standardised_split(x: NDArray[np.float64], labels: NDArray[Any], *, held_out: float, seed: int) -> Split:
    """Hold samples out, as many of each class as its share, and standardise the features.

    Mean and deviation are those of the training samples alone: nothing of the held-out ones leaks into them.

    Parameters
    ----------
    x : array, shape (samples, features)
    labels : array of int, shape (samples,)
        Classes, from 0 up.
    held_out : float
        Share of the samples that is held out, between 0 and 1.
    seed : int
        Decides which.

    Raises
    ------
    ValueError
        If `held_out` leaves a class without a sample on either side.
    """
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    try:
        parts = train_test_split(x, labels, test_size=held_out, random_state=seed, stratify=labels)
    except ValueError as error:
        raise ValueError(f"held_out={held_out} does not split these samples: {error}") from None
    x_train, x_test, labels_train, labels_test = parts
    scaler = StandardScaler().fit(x_train)
    one_hot = np.eye(int(labels.max()) + 1)
    return Split(
        scaler.transform(x_train), one_hot[labels_train], scaler.transform(x_test), one_hot[labels_test]
    )


def share(count: int, rank: int, size: int) -> slice:
    """Return which of `count` items are a rank's: neighbours, as many as any other's, give or take one."""
    return slice(count * rank // size, count * (rank + 1) // size)


class Batches:
    """One rank's share of every global batch.

    All ranks draw the same permutation of the samples from the same seed, cut it into the same global
    batches, and take each its part. So what is learnt does not depend on the number of ranks. Every sample is
    used once an epoch: the last batch may be smaller, and a rank's part of it may be empty.

    Parameters
    ----------
    *arrays : array, shape (samples, …)
        The same on all ranks, and of one length.
    batch_size : int
        Samples of a global batch, all ranks together.
    seed : int
    rank, size : int

    Raises
    ------
    ValueError
        If `batch_size` is below 1, or the arrays are empty or differ in length.
    """

    def __init__(
        self, *arrays: NDArray[Any], batch_size: int, seed: int, rank: int = 0, size: int = 1
    ) -> None:
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"arrays must have one length of 1 or more, not {[len(array) for array in arrays]}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self._arrays, self._batch_size, self._seed = arrays, batch_size, seed
        self._rank, self._size = rank, size

    @property
    def samples(self) -> int:
        """Samples of an epoch, all ranks together."""
        return len(self._arrays[0])

    def epoch(self, number: int) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield this rank's share of each global batch of an epoch.

        Parameters
        ----------
        number : int
            0 or more. An epoch's order follows from the seed and this number alone, whatever ran before.
        """
        order = np.random.default_rng([self._seed, number]).permutation(self.samples)
        for start in range(0, self.samples, self._batch_size):
            batch = order[start : start + self._batch_size]
            mine = batch[share(len(batch), self._rank, self._size)]
            yield tuple(array[mine] for array in self._arrays)
