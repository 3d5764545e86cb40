"""Networks as plain functions of a dict of arrays, over `autograd.numpy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from commops.train.autodiff import anp

__all__ = ["init_mlp", "mlp", "sigmoid"]

Params = dict[str, NDArray[Any]]


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + exp(-x)), element by element, in x's shape; as a tanh, which never overflows."""
    return 0.5 * (anp.tanh(0.5 * x) + 1.0)


def init_mlp(sizes: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float64) -> Params:
    """Draw the parameters of a multilayer perceptron.

    Parameters
    ----------
    sizes : sequence of int
        Width of every layer, input and output included: ``(4, 30, 20, 3)``.
    rng : numpy.random.Generator
    dtype : dtype
        A real floating type.

    Returns
    -------
    dict
        ``weight0`` of shape (sizes[0], sizes[1]), ``bias0`` of shape (sizes[1],), ``weight1``, … Weights are
        uniform in ±sqrt(6 / (inputs + outputs)) (Glorot and Bengio, 2010), biases zero.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be two or more numbers of 1 or more, not {tuple(sizes)}")
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        bound = np.sqrt(6.0 / (inputs + outputs))
        params[f"weight{layer}"] = rng.uniform(-bound, bound, (inputs, outputs)).astype(dtype)
        params[f"bias{layer}"] = np.zeros(outputs, dtype)
    return params


def mlp(params: Mapping[str, Any], x: Any) -> Any:
    """Apply a multilayer perceptron with sigmoid hidden layers.

    Parameters
    ----------
    params : mapping of str to array
        As `init_mlp` makes them.
    x : array, shape (samples, inputs)

    Returns
    -------
    array, shape (samples, outputs)
        The last layer's sums, without an activation.
    """
    last = len(params) // 2 - 1
    for layer in range(last):
        x = sigmoid(anp.dot(x, params[f"weight{layer}"]) + params[f"bias{layer}"])
    return anp.dot(x, params[f"weight{last}"]) + params[f"bias{last}"]
