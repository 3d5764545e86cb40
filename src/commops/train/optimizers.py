"""Optimizers: how a gradient changes the parameters.

They work in place on flat vectors (see `commops.train.flat`), so a step is a handful of whole-vector
operations however many arrays the model has. Each rank steps its own copy from the same averaged gradient,
and since a collective's result has the same bits on all ranks, the copies stay equal without ever being
compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SGD", "Adam", "Optimizer"]


class Optimizer(ABC):
    """Changes a vector of parameters, step by step.

    Attributes
    ----------
    state : dict of str to array
        What one step leaves to the next, apart from the parameters.
    """

    state: dict[str, NDArray[Any]]

    @abstractmethod
    def step(self, params: NDArray[Any], grad: NDArray[Any]) -> None:
        """Change `params` in place.

        Parameters
        ----------
        params : array, shape (parameters,)
        grad : array, shape (parameters,)
            Gradient of the mean loss; it is left alone.
        """


def _check(name: str, value: float, low: float, high: float = np.inf, *, low_fits: bool = True) -> None:
    if not (low <= value < high) or (value == low and not low_fits):
        bracket = "[" if low_fits else "("
        raise ValueError(f"{name} must lie in {bracket}{low:g}, {high:g}), not {value}")


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v ← μ v + g, θ ← θ − η v (as PyTorch writes it).

    Parameters
    ----------
    learning_rate : float
        η > 0.
    momentum : float
        0 ≤ μ < 1; 0 is plain gradient descent.

    Raises
    ------
    ValueError
        If a parameter is out of bounds.
    """

    def __init__(self, learning_rate: float = 0.1, momentum: float = 0.0) -> None:
        _check("learning_rate", learning_rate, 0.0, low_fits=False)
        _check("momentum", momentum, 0.0, 1.0)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.state = {}

    def step(self, params: NDArray[Any], grad: NDArray[Any]) -> None:
        """Change `params` (shape (parameters,)) in place."""
        if self.momentum:
            if not self.state:
                self.state["velocity"] = np.zeros_like(params)
            velocity = self.state["velocity"]
            velocity *= self.momentum
            velocity += grad
            grad = velocity
        params -= self.learning_rate * grad


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1): steps scaled by running moments of the gradient.

    Parameters
    ----------
    learning_rate : float
        Greater than 0.
    beta1, beta2 : float
        Decay of the first and the second moment, in [0, 1).
    epsilon : float
        Added to the root of the second moment; greater than 0.

    Raises
    ------
    ValueError
        If a parameter is out of bounds.
    """

    def __init__(
        self, learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        _check("learning_rate", learning_rate, 0.0, low_fits=False)
        _check("beta1", beta1, 0.0, 1.0)
        _check("beta2", beta2, 0.0, 1.0)
        _check("epsilon", epsilon, 0.0, low_fits=False)
        self.learning_rate, self.beta1, self.beta2, self.epsilon = learning_rate, beta1, beta2, epsilon
        self.state = {}

    def step(self, params: NDArray[Any], grad: NDArray[Any]) -> None:
        """Change `params` (shape (parameters,)) in place."""
        if not self.state:
            self.state = {
                "mean": np.zeros_like(params),
                "square": np.zeros_like(params),
                "steps": np.zeros((), np.int64),
            }
        mean, square, steps = self.state["mean"], self.state["square"], self.state["steps"]
        steps += 1
        mean *= self.beta1
        mean += (1.0 - self.beta1) * grad
        square *= self.beta2
        square += (1.0 - self.beta2) * grad * grad
        # Both moments start at zero; these make up for it.
        scale = self.learning_rate / (1.0 - self.beta1 ** int(steps))
        correction = 1.0 / (1.0 - self.beta2 ** int(steps))
        params -= scale * mean / (np.sqrt(correction * square) + self.epsilon)
