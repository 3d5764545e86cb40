"""The iris run: as good as promised, and the same on any number of ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import commops
from commops.train.config import IrisConfig
from commops.train.iris import SIZES, Result, load_split, loss, train


def test_accuracy_is_at_least_095_over_ten_seeds(alone: commops.Comm) -> None:
    accuracies = [train(alone, IrisConfig(seed=seed)).summary.test_accuracy for seed in range(10)]
    assert np.mean(accuracies) >= 0.95


# 120 training samples in batches of 17: the last has one sample, so all ranks but one have none of it.
UNEVEN = IrisConfig(epochs=12, batch_size=17, seed=3)


@pytest.fixture(scope="module")
def single(alone: commops.Comm) -> Result:
    return train(alone, UNEVEN)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_number_of_ranks_learns_the_same(single: Result, ranks: int) -> None:
    for result in commops.launch(train, ranks, UNEVEN):
        assert result.params.keys() == single.params.keys()
        for name, array in single.params.items():
            assert array.dtype == np.float64
            np.testing.assert_allclose(result.params[name], array, rtol=0, atol=1e-12)
        for row, expected in zip(result.history, single.history, strict=True):
            assert row.train_loss == pytest.approx(expected.train_loss, abs=1e-12)
            assert row.test_loss == pytest.approx(expected.test_loss, abs=1e-12)
            assert row.train_accuracy == expected.train_accuracy
            assert row.test_accuracy == expected.test_accuracy
        assert result.summary.ranks == ranks


def test_tcp_gives_the_same_too(single: Result) -> None:
    for result in commops.launch(train, 2, UNEVEN, transport="tcp"):
        for name, array in single.params.items():
            np.testing.assert_allclose(result.params[name], array, rtol=0, atol=1e-12)


def test_the_summary_is_of_the_last_epoch(single: Result) -> None:
    summary, last = single.summary, single.history[-1]
    assert (summary.train_samples, summary.test_samples, summary.epochs) == (120, 30, 12)
    assert [row.epoch for row in single.history] == list(range(1, 13))
    assert (summary.train_loss, summary.test_accuracy) == (last.train_loss, last.test_accuracy)
    assert 0 <= summary.communication_share <= 1
    assert {name: array.shape for name, array in single.params.items() if "weight" in name} == {
        f"weight{layer}": shape for layer, shape in enumerate([(4, 30), (30, 20), (20, 3)])
    }
    assert SIZES == (4, 30, 20, 3)


def test_reported_losses_are_those_of_the_params(single: Result) -> None:
    split = load_split(UNEVEN)
    assert single.summary.test_loss == pytest.approx(
        loss(single.params, split.x_test, split.y_test), abs=1e-12
    )
    assert single.summary.train_loss == pytest.approx(
        loss(single.params, split.x_train, split.y_train), abs=1e-12
    )


def test_seeds_decide_everything(alone: commops.Comm) -> None:
    config = IrisConfig(epochs=2, seed=1)
    one, same, other = (train(alone, c) for c in (config, config, replace(config, seed=2)))
    assert all((same.params[name] == array).all() for name, array in one.params.items())
    assert not (other.params["weight0"] == one.params["weight0"]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"held_out": 0.0},
        {"held_out": 1.0},
        {"seed": -1},
        {"seed": 1 << 32},
    ],
)
def test_settings_out_of_bounds_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IrisConfig(**wrong)  # type: ignore[arg-type]
