"""Steps of the optimizers, against their papers' formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from commops.train import SGD, Adam, Optimizer


def gradients(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).normal(size=(count, 5)))


def test_sgd_goes_down_the_gradient() -> None:
    params = np.arange(5.0)
    SGD(learning_rate=0.5).step(params, np.ones(5))
    np.testing.assert_array_equal(params, np.arange(5.0) - 0.5)


def test_momentum_keeps_what_was() -> None:
    params, expected, velocity = np.zeros(5), np.zeros(5), np.zeros(5)
    optimizer = SGD(learning_rate=0.1, momentum=0.9)
    for grad in gradients(4):
        optimizer.step(params, grad)
        velocity = 0.9 * velocity + grad
        expected = expected - 0.1 * velocity
    np.testing.assert_allclose(params, expected, rtol=1e-14)


def test_adam_is_its_papers_algorithm() -> None:
    params, expected, m, v = np.zeros(5), np.zeros(5), np.zeros(5), np.zeros(5)
    optimizer = Adam(learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-6)
    for t, grad in enumerate(gradients(6), start=1):
        optimizer.step(params, grad)
        m = 0.8 * m + 0.2 * grad
        v = 0.95 * v + 0.05 * grad**2
        expected = expected - 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
    np.testing.assert_allclose(params, expected, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.5), Adam()])
def test_gradients_are_left_alone_and_dtypes_kept(optimizer: Optimizer) -> None:
    params, grad = np.ones(5, np.float32), np.ones(5, np.float32)
    for _ in range(2):
        optimizer.step(params, grad)
    assert params.dtype == np.float32
    np.testing.assert_array_equal(grad, np.ones(5, np.float32))
    assert all(array.dtype == np.float32 for name, array in optimizer.state.items() if name != "steps")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SGD(learning_rate=0.0), "learning_rate"),
        (lambda: SGD(learning_rate=float("nan")), "learning_rate"),
        (lambda: SGD(momentum=1.0), "momentum"),
        (lambda: Adam(learning_rate=-1.0), "learning_rate"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=-0.1), "beta2"),
        (lambda: Adam(epsilon=0.0), "epsilon"),
    ],
)
def test_settings_out_of_bounds_are_named(make: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()  # type: ignore[operator]
