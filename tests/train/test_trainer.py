"""The trainer: one step of many ranks is one step of one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import commops
from commops.train import SGD, Adam, Trainer, share

Array = NDArray[Any]


def loss_and_grad(params: Mapping[str, Array], x: Array, y: Array) -> tuple[float, dict[str, Array]]:
    """Least squares, its gradient by hand: training needs no autograd, only a function."""
    residual = x @ params["weight"] + params["bias"] - y
    loss = float(residual @ residual) / len(x)
    return loss, {"weight": 2 * residual @ x / len(x), "bias": np.array(2 * residual.mean())}


def start() -> dict[str, Array]:
    return {"weight": np.array([0.5, -1.0, 2.0]), "bias": np.array(0.25)}


def data(samples: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(8)
    return rng.normal(size=(samples, 3)), rng.normal(size=samples)


def steps(comm: commops.Comm, counts: tuple[int, ...], adam: bool) -> tuple[list[float], dict[str, Array]]:
    """Take ten steps in which this rank has `counts[rank]` of the samples."""
    x, y = data(sum(counts))
    first = sum(counts[: comm.rank])
    mine = slice(first, first + counts[comm.rank])
    trainer = Trainer(loss_and_grad, start(), Adam(0.1) if adam else SGD(0.05, 0.9), comm=comm)
    losses = [trainer.step(x[mine], y[mine]) for _ in range(10)]
    return losses, {name: array.copy() for name, array in trainer.params.items()}


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("counts", [(4, 3), (1, 6, 2), (5, 0, 1, 3), (0, 0, 2)])
def test_uneven_and_empty_shares_neither_hang_nor_bias(
    alone: commops.Comm, counts: tuple[int, ...], adam: bool
) -> None:
    losses, params = steps(alone, (sum(counts),), adam)
    for other_losses, other in commops.launch(steps, len(counts), counts, adam):
        np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-12)
        for name, array in params.items():
            np.testing.assert_allclose(other[name], array, rtol=0, atol=1e-12)


def test_every_rank_ends_with_the_same_bits() -> None:
    results = commops.launch(steps, 3, (3, 2, 4), True)
    for losses, params in results[1:]:
        assert losses == results[0][0]
        assert all((array == results[0][1][name]).all() for name, array in params.items())


def different_starts(comm: commops.Comm) -> tuple[dict[str, Array], bool]:
    mine = {"weight": np.full(3, float(comm.rank + 1)), "bias": np.array(0.0)}
    trainer = Trainer(loss_and_grad, mine, SGD(), comm=comm)
    return trainer.params, bool((mine["weight"] == comm.rank + 1).all())


def test_all_ranks_begin_where_rank_0_does_and_keep_their_input() -> None:
    for params, untouched in commops.launch(different_starts, 3):
        np.testing.assert_array_equal(params["weight"], np.ones(3))
        assert untouched


def count_collectives(comm: commops.Comm) -> tuple[int, int]:
    calls = []

    class Counting:
        rank, size = comm.rank, comm.size
        zeros, broadcast = staticmethod(comm.zeros), staticmethod(comm.broadcast)

        @staticmethod
        def allreduce(x: Array, **options: Any) -> Array:
            calls.append(x.size)
            return comm.allreduce(x, **options)

    x, y = data(8)
    trainer = Trainer(loss_and_grad, start(), SGD(), comm=Counting())  # type: ignore[arg-type]
    mine = share(8, comm.rank, comm.size)
    count = trainer.run((x[mine], y[mine]) for _ in range(5))
    return count, len(calls)


def test_a_step_is_one_allreduce() -> None:
    assert commops.launch(count_collectives, 2) == [(5, 5), (5, 5)]


def test_times_add_up(alone: commops.Comm) -> None:
    trainer = Trainer(loss_and_grad, start(), SGD(), comm=alone)
    assert (trainer.seconds, trainer.communication_seconds) == (0.0, 0.0)
    trainer.step(*data(4))
    assert trainer.seconds >= trainer.communication_seconds > 0


def test_float32_stays_float32(alone: commops.Comm) -> None:
    params = {name: array.astype(np.float32) for name, array in start().items()}
    trainer = Trainer(loss_and_grad, params, Adam(), comm=alone)
    trainer.step(*data(4))
    assert {array.dtype for array in trainer.params.values()} == {np.dtype(np.float32)}


def test_a_step_without_samples_is_refused(alone: commops.Comm) -> None:
    trainer = Trainer(loss_and_grad, start(), SGD(), comm=alone)
    x, y = data(3)
    with pytest.raises(ValueError, match="no rank has a sample"):
        trainer.step(x[:0], y[:0])
    np.testing.assert_array_equal(trainer.params["weight"], start()["weight"])
    trainer.step(x, y)


def test_gradients_of_other_names_are_refused_before_anything_is_sent(alone: commops.Comm) -> None:
    def wrong(params: Mapping[str, Array], x: Array) -> tuple[float, dict[str, Array]]:
        return 0.0, {"weight": np.zeros(3)}

    trainer = Trainer(wrong, start(), SGD(), comm=alone)
    with pytest.raises(ValueError, match="names: bias"):
        trainer.step(np.ones(1))
