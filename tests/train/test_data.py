"""What is held out, and who gets which sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commops.train import Batches, share, standardised_split


@given(count=st.integers(0, 50), size=st.integers(1, 9))
def test_shares_cover_everything_once_and_evenly(count: int, size: int) -> None:
    shares = [share(count, rank, size) for rank in range(size)]
    assert [item for part in shares for item in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in shares]
    assert max(lengths) - min(lengths) <= 1


@given(
    samples=st.integers(1, 40), batch_size=st.integers(1, 45), size=st.integers(1, 5), seed=st.integers(0, 9)
)
def test_ranks_together_see_the_batches_of_one_process(
    samples: int, batch_size: int, size: int, seed: int
) -> None:
    x, y = np.arange(samples), -np.arange(samples)
    single = list(Batches(x, y, batch_size=batch_size, seed=seed).epoch(3))
    ranks = [
        list(Batches(x, y, batch_size=batch_size, seed=seed, rank=rank, size=size).epoch(3))
        for rank in range(size)
    ]
    assert sorted(np.concatenate([batch[0] for batch in single])) == list(range(samples))
    for number, (whole, labels) in enumerate(single):
        np.testing.assert_array_equal(np.concatenate([batches[number][0] for batches in ranks]), whole)
        np.testing.assert_array_equal(labels, -whole)
    assert {len(batches) for batches in ranks} == {len(single)}


def test_epochs_differ_and_repeat() -> None:
    batches = Batches(np.arange(30), batch_size=30, seed=1)
    first, second = (next(batches.epoch(number))[0] for number in (0, 1))
    assert not (first == second).all()
    np.testing.assert_array_equal(next(batches.epoch(0))[0], first)


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        Batches(np.arange(3), batch_size=0, seed=0)
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        Batches(np.arange(3), np.arange(2), batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"\[0\]"):
        Batches(np.arange(0), batch_size=1, seed=0)


def test_held_out_samples_are_of_every_class_and_leak_nothing() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(3.0, 2.0, size=(100, 4)), np.repeat([0, 1, 2, 2], 25)
    split = standardised_split(x, labels, held_out=0.2, seed=4)
    assert split.y_test.sum(axis=0).tolist() == [5, 5, 10]
    assert split.y_train.sum(axis=0).tolist() == [20, 20, 40]
    np.testing.assert_allclose(split.x_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(split.x_train.std(axis=0), 1)
    assert abs(split.x_test.mean(axis=0)).min() > 1e-6  # not by statistics of its own
    again = standardised_split(x, labels, held_out=0.2, seed=4)
    np.testing.assert_array_equal(again.x_test, split.x_test)
    other = standardised_split(x, labels, held_out=0.2, seed=5)
    assert not (other.x_test == split.x_test).all()


def test_a_split_that_leaves_a_class_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"held_out=0\.1 does not"):
        standardised_split(np.zeros((6, 2)), np.array([0, 0, 1, 1, 2, 2]), held_out=0.1, seed=0)
