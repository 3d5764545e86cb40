"""Losses over `autograd.numpy`, each the mean over the samples of a batch, and the accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from commops.train.autodiff import anp, logsumexp

__all__ = ["correct", "softmax_cross_entropy", "squared_error"]


def softmax_cross_entropy(outputs: Any, targets: Any) -> Any:
    """Return the cross-entropy of ``softmax(outputs)`` against the targets.

    Parameters
    ----------
    outputs : array, shape (samples, classes)
        Unnormalised log-probabilities.
    targets : array, shape (samples, classes)
        Rows of probabilities; one-hot for known labels.

    Returns
    -------
    scalar
        In nats, the mean over the samples.
    """
    log_probabilities = outputs - logsumexp(outputs, axis=1, keepdims=True)
    return -anp.sum(targets * log_probabilities) / len(targets)


def squared_error(outputs: Any, targets: Any) -> Any:
    """Return half the squared distance of the outputs from the targets, the mean over the samples.

    Parameters
    ----------
    outputs, targets : array, shape (samples, classes)
    """
    return 0.5 * anp.sum((outputs - targets) ** 2) / len(targets)


def correct(outputs: NDArray[Any], targets: NDArray[Any]) -> int:
    """Count the samples whose largest output stands where their largest target does.

    Parameters
    ----------
    outputs, targets : array, shape (samples, classes)
    """
    return int(np.count_nonzero(outputs.argmax(axis=1) == targets.argmax(axis=1)))
