"""Losses and models: their values by other means, their gradients by finite differences."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from autograd.test_util import check_grads
from scipy.special import expit, log_softmax

from commops.train import init_mlp, mlp, sigmoid, softmax_cross_entropy, squared_error
from commops.train.losses import correct

RNG = np.random.default_rng(5)
X = RNG.normal(size=(6, 4))
Y = np.eye(3)[RNG.integers(3, size=6)]


def test_sigmoid_is_exact_and_never_overflows() -> None:
    x = np.array([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4])
    np.testing.assert_allclose(sigmoid(x), expit(x), atol=1e-16)


def test_cross_entropy_is_the_mean_over_samples_even_of_huge_outputs() -> None:
    outputs = RNG.normal(size=(6, 3)) * np.array([[1e3]] + [[1.0]] * 5)
    expected = -np.mean(np.sum(Y * log_softmax(outputs, axis=1), axis=1))
    np.testing.assert_allclose(softmax_cross_entropy(outputs, Y), expected, rtol=1e-12)


def test_squared_error_is_half_the_squared_distance() -> None:
    assert squared_error(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])) == 1.5


def test_correct_counts_the_largest_output() -> None:
    assert correct(np.array([[0.1, 3.0], [2.0, 1.0], [0.0, 1.0]]), np.array([[0, 1], [0, 1], [0, 1]])) == 2


def test_mlp_is_layers_of_sigmoids_under_a_linear_one() -> None:
    params = init_mlp((4, 5, 3), np.random.default_rng(0))
    hidden = expit(X @ params["weight0"] + params["bias0"])
    np.testing.assert_allclose(mlp(params, X), hidden @ params["weight1"] + params["bias1"], rtol=1e-12)


def test_initial_weights_are_bounded_and_of_the_seed() -> None:
    params = init_mlp((4, 30, 20, 3), np.random.default_rng(7), np.float32)
    assert {name: (array.shape, array.dtype) for name, array in params.items()} == {
        "weight0": ((4, 30), np.float32),
        "bias0": ((30,), np.float32),
        "weight1": ((30, 20), np.float32),
        "bias1": ((20,), np.float32),
        "weight2": ((20, 3), np.float32),
        "bias2": ((3,), np.float32),
    }
    assert abs(params["weight1"]).max() <= np.sqrt(6 / 50)
    assert not params["bias1"].any()
    again = init_mlp((4, 30, 20, 3), np.random.default_rng(7), np.float32)
    assert all((again[name] == params[name]).all() for name in params)


@pytest.mark.parametrize("sizes", [(4,), (4, 0, 3)])
def test_impossible_layers_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        init_mlp(sizes, np.random.default_rng(0))


@pytest.mark.parametrize("loss", [softmax_cross_entropy, squared_error])
def test_gradients_agree_with_finite_differences(loss: object) -> None:
    def objective(params: object, x: object) -> object:
        return loss(mlp(params, x), Y)  # type: ignore[operator, arg-type]

    params = init_mlp((4, 5, 4, 3), np.random.default_rng(3))
    check_grads(partial(objective, x=X), modes=["rev"], order=2)(params)
